"""How the stages of a configuration follow each other: whose results go to whose input.

Pure. Only what is in the configuration counts: names of queues, exchanges with their bindings, and an output's own
routing key. A handler may send its results elsewhere, and others may have bound queues.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from mqworker.amqp.topics import matches
from mqworker.config.model import BrokerConfig, OutputConfig, StageConfig


class Place(NamedTuple):
    """Where a stage stands in the line."""

    name: str
    level: int  # the longest path of results to it, in stages; 0: no stage feeds it
    feeds: tuple[str, ...]  # the stages to whose inputs its results go


class _Binding(NamedTuple):
    """A queue that a stage binds to an exchange, whose type may be configured."""

    queue: str
    exchange: str
    key: str
    type: str | None


def is_embedded(broker: BrokerConfig) -> bool:
    """Return whether this is the embedded broker, on which every exchange is a topic exchange."""
    return any(url.startswith("sqlite:") or not url for url in broker.urls)


def line(stages: Mapping[str, StageConfig], *, embedded: bool) -> list[Place]:
    """Return all stages, each one after those that feed it."""
    return in_order({name: tuple(after) for name, after in feeds(stages, embedded=embedded).items()})


def in_order(after: Mapping[str, Collection[str]]) -> list[Place]:
    """Return each stage after those that feed it, and close to them; otherwise in the given order.

    Configurations have no cycles, but if there is one, it is cut at its first stage.
    """
    before = {name: {other for other, to in after.items() if name in to} - {name} for name in after}
    levels: dict[str, int] = {}
    for first in sorted(after, key=lambda name: bool(before[name])):  # those that nothing feeds; then those in cycles
        due = deque([first])
        while due:
            name = due.popleft()
            if name in levels or (name != first and not before[name] <= levels.keys()):
                continue
            levels[name] = 1 + max((levels[other] for other in before[name] if other in levels), default=-1)
            due.extendleft(reversed([other for other in after if other in after[name]]))
    return [Place(name, level, tuple(after[name])) for name, level in levels.items()]


def lines(places: Iterable[Place]) -> list[list[str]]:
    """Return the connected lines of stages, each as the names of its stages."""
    found: list[list[str]] = []
    for place in places:
        near = {place.name, *place.feeds}
        joined = [line for line in found if near & set(line)]
        found = [line for line in found if line not in joined]
        found.append(list(dict.fromkeys(name for line in (*joined, (place.name, *place.feeds)) for name in line)))
    return found


def feeds(stages: Mapping[str, StageConfig], *, embedded: bool) -> dict[str, dict[str, str]]:
    """Return for each stage those that its results go to, each with the key of its output that sends them there."""
    bindings = tuple(_bindings(stages.values(), embedded=embedded))
    return {
        name: {other: key for other, to in stages.items() if (key := _leads(stage.output, to.input.queue, bindings))}
        for name, stage in stages.items()
    }


def _bindings(stages: Iterable[StageConfig], *, embedded: bool) -> Iterator[_Binding]:
    """Yield the bindings that the stages make."""
    for stage in stages:
        source, output = stage.input, stage.output
        for key in source.bindings:
            yield _Binding(source.queue, source.exchange, key, None if embedded else source.type)
        if output is not None and output.queue and output.exchange:
            yield _Binding(output.queue, output.exchange, output.routing_key, None if embedded else output.type)


def _leads(output: OutputConfig | None, queue: str, bindings: Iterable[_Binding]) -> str:
    """Return the key of an output that makes its results go to a queue; "" if they do not.

    Only results with the output's own routing key are considered. An exchange of unknown type counts as a topic one.
    """
    if output is None or output.queue == queue:
        return "" if output is None else "queue"
    for binding in bindings:
        if binding.queue == queue and output.exchange and binding.exchange == output.exchange:
            types = {each.type for each in bindings if each.exchange == output.exchange} - {None}
            if types & {"fanout", "headers"}:
                return "exchange"
            if binding.key == output.routing_key or (types != {"direct"} and matches(binding.key, output.routing_key)):
                return "routing_key"
    return ""
