"""The rules between keys, and those about the machine (files that must exist).

Reads a `Config` and looks for the files it names; changes nothing. Each violation lists its keys, the one at fault
first; the caller drops a violation that concerns a key with an invalid value.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from mqworker.amqp.topics import matches
from mqworker.config import urls
from mqworker.config.errors import TOKEN, URL, Key, quoted
from mqworker.config.model import BrokerConfig, Config, ControlConfig, InputConfig, OutputConfig, StageConfig

MAX_SOCKET_PATH = 107  # bytes; Linux keeps 108 with the final zero
_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1|\[::1\]")


class RuleViolation(Struct, frozen=True):
    """What a rule found; {value} in the message stands for the first key's value, masked where needed."""

    keys: tuple[Key, ...]
    message: str
    fix: str = ""
    warning: bool = False


def violations(config: Config, root: Path) -> Iterator[RuleViolation]:
    """Check all rules."""
    yield from _control(config.control, root / config.service.state_dir)
    yield from _broker(config.broker)
    yield from _tls(config.broker, root)
    by_input: dict[str, str] = {}
    for name, stage in config.stages.items():
        yield from _stage(("stages", name), stage)
        yield from _limits(("stages", name), stage, config.broker)
        other = by_input.setdefault(stage.input.queue, name)
        if other != name:
            yield RuleViolation(
                (("stages", name, "input", "queue"), ("stages", other, "input", "queue")),
                f"{{value}} is already the input of stage {quoted(other)}",
                "give each stage its own queue, or combine both chains in one stage",
            )
    yield from _rings(config.stages, by_input)


def _rings(stages: dict[str, StageConfig], by_input: dict[str, str]) -> Iterator[RuleViolation]:
    """Find stages whose results come back to them through other stages; each ring once, at its first stage."""
    seen: set[str] = set()
    for first, stage in stages.items():
        way, name = [first], first
        while (output := stages[name].output) and (name := _next(output, stages, by_input)) and name not in way:
            way.append(name)
        if len(way) > 1 and name == first and not seen.intersection(way):
            key = "queue" if stage.output and stage.output.queue else "routing_key"
            yield RuleViolation(
                (("stages", first, "output", key),),
                f"{{value}} leads back to this stage ({' -> '.join([*way, first])}): an endless loop",
                "publish the results of one of these stages to another queue",
            )
            seen.update(way)


def _next(output: OutputConfig, stages: dict[str, StageConfig], by_input: dict[str, str]) -> str:
    """Return the stage that receives these results; "" if there is none."""
    if name := by_input.get(output.queue, ""):
        return name
    return next((name for name, stage in stages.items() if _receives(stage.input, output)), "")


def _receives(source: InputConfig, output: OutputConfig) -> bool:
    """Whether results with the output's own routing key come to this input through its exchange."""
    if not output.exchange or source.exchange != output.exchange:
        return False
    return any(matches(key, output.routing_key) for key in source.bindings)


def _control(control: ControlConfig, state_dir: Path) -> Iterator[RuleViolation]:
    host: Key = ("control", "host")
    if not control.token and not _LOOPBACK.fullmatch(control.host):
        yield RuleViolation(
            (host, TOKEN),
            "is {value}, which others can reach, but control.token is not set",
            'set MQWORKER_CONTROL__TOKEN_FILE to a file that holds a token, or host = "127.0.0.1"',
        )
    path = state_dir / (control.socket or "control.sock")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        yield RuleViolation(
            (("control", "socket"),),
            f"its path has {len(os.fsencode(path))} bytes, but a unix socket's may have at most {MAX_SOCKET_PATH}",
            "set control.socket to a shorter path",
        )


def _broker(broker: BrokerConfig) -> Iterator[RuleViolation]:
    urls_set = tuple(url for url in broker.urls if url)
    for url in urls_set:
        if fault := urls.fault(url):
            message, fix = fault
            yield RuleViolation((URL,), f"{quoted(urls.redact_url(url))} {message}", fix)
    embedded = [url for url in broker.urls if url.startswith("sqlite:") or not url]
    if embedded and len(broker.urls) > 1:
        yield RuleViolation(
            (URL,), "an embedded broker cannot be combined with other URLs", "keep either it or the amqp URLs"
        )
    tls_files = [name for name in ("ca", "cert", "key") if getattr(broker.tls, name)]
    if tls_files and not any(url.startswith("amqps:") for url in urls_set):
        key: Key = ("broker", "tls", tls_files[0])
        yield RuleViolation((key, URL), "is not used: no broker URL begins with amqps://", warning=True)


def _tls(broker: BrokerConfig, root: Path) -> Iterator[RuleViolation]:
    for name in ("ca", "cert", "key"):
        path = getattr(broker.tls, name)
        if path and not (root / path).is_file():
            yield RuleViolation(
                (("broker", "tls", name),), "there is no file {value}", f"relative paths start at {root}"
            )
    if broker.tls.key and not broker.tls.cert:
        yield RuleViolation(
            (("broker", "tls", "key"), ("broker", "tls", "cert")), "there is no cert for this key", "set cert"
        )


def _stage(at: Key, stage: StageConfig) -> Iterator[RuleViolation]:
    source = (*at, "input")
    texts = {(*source, "queue"): stage.input.queue, (*source, "exchange"): stage.input.exchange}
    texts |= {(*source, "bindings"): max(stage.input.bindings, key=lambda key: len(key.encode()), default="")}
    yield from _input(source, stage.input)
    if output := stage.output:
        where = (*at, "output")
        texts |= {(*where, name): getattr(output, name) for name in ("queue", "exchange", "routing_key")}
        yield from _output(where, output)
        if output.queue == stage.input.queue:
            yield RuleViolation(
                ((*where, "queue"), (*source, "queue")),
                "{value} is also the input of this stage: an endless loop",
                "publish the results to another queue",
            )
        elif _receives(stage.input, output):
            yield RuleViolation(
                ((*where, "routing_key"), (*source, "bindings")),
                "{value} comes back to the input of this stage through its bindings: an endless loop",
                "publish the results with another routing key, or to another exchange",
            )
    for key, text in texts.items():
        if text and len(text.encode()) > 255 - len(".retry.4000000"):
            yield RuleViolation((key,), f"has {len(text.encode())} bytes, too many for AMQP", "use a shorter name")


def _input(at: Key, source: InputConfig) -> Iterator[RuleViolation]:
    if source.bindings and not source.exchange:
        keys = ((*at, "bindings"), (*at, "exchange"))
        yield RuleViolation(keys, "have no effect without an exchange", "set exchange, or remove bindings")
    if source.exchange and not source.bindings:
        keys = ((*at, "exchange"), (*at, "bindings"))
        yield RuleViolation(
            keys, "has no effect without bindings", 'set bindings, for example ["#"], or remove exchange'
        )
    if source.type and not source.exchange:
        yield RuleViolation(((*at, "type"), (*at, "exchange")), "has no effect without an exchange", "set exchange")


def _output(at: Key, output: OutputConfig) -> Iterator[RuleViolation]:
    if not output.queue and not output.exchange:
        yield RuleViolation(((*at, "queue"), (*at, "exchange")), "is missing, and so is exchange", "set one of them")
        return
    for name in ("routing_key", "type"):
        if getattr(output, name) and not output.exchange:
            keys = ((*at, name), (*at, "exchange"))
            yield RuleViolation(keys, "has no effect without an exchange", f"set exchange, or remove {name}")


def _limits(at: Key, stage: StageConfig, broker: BrokerConfig) -> Iterator[RuleViolation]:
    limit, retry = stage.time_limit, stage.retry
    soft, hard = (*at, "time_limit", "soft"), (*at, "time_limit", "hard")
    if limit.hard and limit.soft > limit.hard:
        yield RuleViolation(
            (soft, hard), f"is {{value}}, above the hard limit of {limit.hard:g} s", "set soft below hard"
        )
    if retry.base > retry.max:
        base, longest = (*at, "retry", "base"), (*at, "retry", "max")
        yield RuleViolation(
            (base, longest), f"is {{value}}, above retry.max of {retry.max:g} s", "set base to at most max"
        )
    key, seconds = (hard, limit.hard) if limit.hard else (soft, limit.soft)
    if broker.ack_timeout and seconds > broker.ack_timeout and broker.urls[0].startswith("amqp"):
        yield RuleViolation(
            (key, ("broker", "ack_timeout")),
            f"is {{value}}, longer than the {broker.ack_timeout:g} s after which the broker closes the channel",
            "raise consumer_timeout on the broker and broker.ack_timeout here",
            warning=True,
        )
