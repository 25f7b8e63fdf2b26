"""The rules of stages that keep an order: what cannot be ordered, and what will not behave as one might expect.

Pure; used by the rules.
"""

from collections.abc import Iterator, Mapping

from mqworker.amqp import headers
from mqworker.config.errors import Key, quoted
from mqworker.config.model import HEADER, ORDER_LOCK, ROUTING_KEY, BrokerConfig, StageConfig
from mqworker.config.violation import RuleViolation

EACH = 16  # messages of prefetch for each Consumer; with fewer, some will have nothing to do


def order_violations(at: Key, stage: StageConfig, broker: BrokerConfig, *, embedded: bool) -> Iterator[RuleViolation]:
    """Check one stage."""
    ordered_by, on_failure = (*at, "ordered_by"), (*at, "on_failure")
    if stage.ordered_by is None:
        if stage.on_failure is not None:
            fix = "set ordered_by, or leave on_failure out"
            yield RuleViolation((on_failure, ordered_by), "has no effect: this stage keeps no order", fix)
        return
    name = stage.ordered_by.removeprefix(HEADER)
    if name != stage.ordered_by and (name in headers.NOT_KEYS or name.startswith(headers.PREFIX)):
        fix = "name a header that the publishers set"
        yield RuleViolation((ordered_by,), f"{name} is set by brokers, or by mqworker itself", fix)
    if stage.ordered_by == ROUTING_KEY and not stage.input.bindings:
        fix = "bind the queue to an exchange, or name a header"
        what = "messages that are published to the queue itself all have its name as their routing key: one order"
        yield RuleViolation((ordered_by, (*at, "input", "bindings")), what, fix, warning=True)
    consumers = stage.consumers if isinstance(stage.consumers, int) else 0
    if stage.prefetch is not None and stage.prefetch < EACH * consumers:
        fix = f"allow at least {EACH} for each Consumer, or leave it out"
        what = "{value} is little for a stage that keeps an order: Consumers will often have nothing to do"
        yield RuleViolation(((*at, "prefetch"), ordered_by), what, fix, warning=True)
    if stage.holds:
        yield from _held(at, stage, broker, embedded=embedded)


def _held(at: Key, stage: StageConfig, broker: BrokerConfig, *, embedded: bool) -> Iterator[RuleViolation]:
    if not stage.time_limit.hard:
        fix = 'set time_limit = { hard = ... }, or on_failure = "pass"'
        what = "a message that never ends holds up all behind it for ever: there is no hard time limit"
        yield RuleViolation(((*at, "ordered_by"), (*at, "time_limit", "hard")), what, fix, warning=True)
    if not embedded and broker.ack_timeout and stage.retry.max > broker.ack_timeout / 2:
        longest = broker.ack_timeout / 2
        what = (
            "{value} is long for a message that keeps its place: after broker.ack_timeout the broker gives it to"
            " another service with this stage, which counts its attempts from the start"
        )
        fix = f"set retry.max to {longest:g} or less"
        yield RuleViolation(((*at, "retry", "max"), ("broker", "ack_timeout")), what, fix, warning=True)


def lock_violations(stages: Mapping[str, StageConfig]) -> Iterator[RuleViolation]:
    """Find queues with the name of an ordered stage's lock: both would be the same queue at the broker."""
    locks = {f"{stage.input.queue}{ORDER_LOCK}": name for name, stage in stages.items() if stage.ordered_by is not None}
    for name, stage in stages.items():
        for key, place in (("input", stage.input), ("output", stage.output)):
            if place is not None and (owner := locks.get(place.queue)) is not None:
                keys: tuple[Key, ...] = (("stages", name, key, "queue"), ("stages", owner, "ordered_by"))
                what = f"{{value}} is the name of the lock of stage {quoted(owner)}, which keeps an order"
                yield RuleViolation(keys, what, "give the queue another name")
