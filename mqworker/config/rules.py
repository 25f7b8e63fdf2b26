"""The rules between keys, and the rules about the machine (files that must exist).

Reads a `Config` and looks for the files it names; changes nothing. Each violation lists its keys, the one at fault
first; the caller drops a violation that concerns a key with an invalid value.

Longer than most modules, so that whoever adds a key finds all rules that it may break in one place.
"""

import os
import re
from collections.abc import Collection, Iterator
from keyword import iskeyword
from pathlib import Path

from mqworker.config import urls
from mqworker.config.errors import PICKLE_KEY, READ_TOKEN, TOKEN, URL, Key, quoted
from mqworker.config.line import feeds, is_embedded
from mqworker.config.model import (
    AUTO,
    HANDLE_NAMES,
    BrokerConfig,
    Config,
    ControlConfig,
    InputConfig,
    OutputConfig,
    ProgramConfig,
    SharedConfig,
    StageConfig,
    most_consumers,
)
from mqworker.config.order_rules import lock_violations, order_violations
from mqworker.config.source_rules import source_violations
from mqworker.config.violation import RuleViolation

MOST_PEERS = 32
MAX_SOCKET_PATH = 107  # bytes; Linux keeps 108 with the final zero
_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1|\[::1\]")


_OWN_INPUT = {  # by the key of the output that is at fault: what happens, and the fix
    "queue": ("{value} is also the input of this stage: an endless loop", "publish the results to another queue"),
    "exchange": (
        "{value} gives every message to the input of this stage, its results too: an endless loop",
        "publish the results to another exchange",
    ),
    "routing_key": (
        "{value} comes back to the input of this stage through its bindings: an endless loop",
        "publish the results with another routing key, or to another exchange",
    ),
}


def violations(config: Config, root: Path, runs: Collection[str]) -> Iterator[RuleViolation]:
    """Check all rules; those about a stage's secrets only if it is among `runs`."""
    yield from _control(config.control, root / config.service.state_dir)
    yield from _broker(config.broker)
    yield from _tls(config.broker, root)
    embedded = is_embedded(config.broker)
    by_input: dict[str, str] = {}
    for name, stage in config.stages.items():
        yield from _stage(("stages", name), stage)
        yield from _limits(("stages", name), stage, config.broker)
        yield from order_violations(("stages", name), stage, config.broker, embedded=embedded)
        if name in runs:
            yield from _pickles(("stages", name), stage)
        if embedded:
            yield from _types(("stages", name), stage)
        other = by_input.setdefault(stage.input.queue, name)
        if other != name:
            yield RuleViolation(
                (("stages", name, "input", "queue"), ("stages", other, "input", "queue")),
                f"{{value}} is already the input of stage {quoted(other)}",
                "give each stage its own queue, or combine both chains in one stage",
            )
    yield from _loops(config.stages, embedded=embedded)
    if not embedded:
        yield from lock_violations(config.stages)
    yield from _shared(config.shared)
    yield from source_violations(config)
    yield from _processes(config)


def _shared(shared: dict[str, SharedConfig]) -> Iterator[RuleViolation]:
    """Check that handlers can ask for each shared object by its name, and that each class has only one object."""
    by_class: dict[str, str] = {}
    for name, each in shared.items():
        where = ("shared", name)
        if not name.isidentifier() or iskeyword(name):
            yield RuleViolation((where,), "handlers could not have an argument of this name", "write a name of Python")
        elif name in HANDLE_NAMES:
            what = f"handlers get something else by the name {name}"
            yield RuleViolation((where,), what, f"choose another name than {', '.join(HANDLE_NAMES)}")
        other = by_class.setdefault(each.job, name)
        if other != name:
            yield RuleViolation(
                ((*where, "job"), ("shared", other, "job")),
                f"{{value}} is shared already, as {quoted(other)}",
                "use that object, or derive a class of its own for this one",
            )


def _processes(config: Config) -> Iterator[RuleViolation]:
    """Check that the shared Consumers are enough for all stages that share them."""
    key: Key = ("service", "processes")
    sharing = [name for name, stage in config.stages.items() if stage.consumers == AUTO]
    if sharing and config.service.processes < len(sharing):
        what = f"is {{value}}, less than the {len(sharing)} stages with consumers = {quoted(AUTO)}: they take turns"
        yield RuleViolation((key, ("stages", sharing[0], "consumers")), what, warning=True)


def _loops(stages: dict[str, StageConfig], *, embedded: bool) -> Iterator[RuleViolation]:
    """Find stages whose results come back to them, directly or through others; reports each loop at its first stage."""
    leads = feeds(stages, embedded=embedded)
    seen: set[str] = set()
    for first, after in leads.items():
        if first in after:
            where = ("stages", first, "output", after[first])
            yield RuleViolation((where, ("stages", first, "input", "queue")), *_OWN_INPUT[after[first]])
        elif first not in seen and (way := _way_back(first, leads)):
            yield RuleViolation(
                (("stages", first, "output", after[way[1]]),),
                f"{{value}} leads back to this stage ({' -> '.join(way)}): an endless loop",
                "publish the results of one of these stages to another queue",
            )
            seen.update(way)


def _way_back(first: str, leads: dict[str, dict[str, str]]) -> list[str]:
    """Return the shortest path of results from a stage through others back to it; empty if there is none."""
    ways, passed = [[first]], {first}
    for way in ways:
        for name in leads[way[-1]]:
            if name == first:
                return [*way, first]
            if name not in passed:
                passed.add(name)
                ways.append([*way, name])
    return []


def _control(control: ControlConfig, state_dir: Path) -> Iterator[RuleViolation]:
    host: Key = ("control", "host")
    if not control.token and not _LOOPBACK.fullmatch(control.host):
        yield RuleViolation(
            (host, TOKEN),
            "is {value}, which others can reach, but control.token is not set",
            'set MQWORKER_CONTROL__TOKEN_FILE to a file that holds a token, or host = "127.0.0.1"',
        )
    if control.read_token and not control.token:
        yield RuleViolation(
            (READ_TOKEN,),
            "is set, but control.token is not: without it everybody may change everything",
            "set control.token too, or neither",
        )
    elif control.read_token and control.read_token == control.token:
        yield RuleViolation(
            (READ_TOKEN,), "is the same as control.token, so whoever may read could change everything", "set another"
        )
    if len(control.peers) > MOST_PEERS:
        what = f"has {len(control.peers)} entries, but may have at most {MOST_PEERS}"
        yield RuleViolation((("control", "peers"),), what, "show the others on a page of their own")
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
    if is_embedded(broker) and len(broker.urls) > 1:
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
    named = [job.name for job in stage.jobs or () if isinstance(job, ProgramConfig) and job.name]  # None: invalid
    for name in dict.fromkeys(named):
        if named.count(name) > 1:
            what = f"has {named.count(name)} programs with the name {quoted(name)}"
            yield RuleViolation(((*at, "jobs"),), what, "a chain knows its jobs by their names: give each its own")
    if output := stage.output:
        where = (*at, "output")
        texts |= {(*where, name): getattr(output, name) for name in ("queue", "exchange", "routing_key")}
        yield from _output(where, output)
    for key, text in texts.items():
        most = 255 - len(".retry.4194304s") if key == (*source, "queue") else 255
        if text and len(text.encode()) > most:
            yield RuleViolation((key,), f"has {len(text.encode())} bytes, too many for AMQP", "use a shorter name")


def _pickles(at: Key, stage: StageConfig) -> Iterator[RuleViolation]:
    key, codec = (*at, PICKLE_KEY), (*at, "codec")
    if stage.pickle_key == ():
        yield RuleViolation((key,), "is an empty list", "name a key, or remove it")
    elif isinstance(stage.pickle_key, str) and stage.pickle_key.lstrip().startswith("["):
        fix = 'write ["NEW", "OLD"], or choose a key that begins otherwise'
        yield RuleViolation((key,), "begins with [ but is not a TOML list", fix)
    elif stage.codec == "pickle" and not stage.pickle_keys:
        fix = "set pickle_key, or its variable with _FILE, to a secret such as `openssl rand -hex 32` prints"
        yield RuleViolation((codec, key), "is {value}, but there is no pickle_key", fix)
    if stage.pickle_keys:
        yield RuleViolation(
            (key,), "this stage loads pickles: whoever has the key runs code in its Consumers", warning=True
        )


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


def _types(at: Key, stage: StageConfig) -> Iterator[RuleViolation]:
    for name, type_ in (("input", stage.input.type), ("output", stage.output and stage.output.type)):
        if type_ not in (None, "topic"):
            yield RuleViolation(
                ((*at, name, "type"), URL),
                "{value} has no effect: every exchange of the embedded broker is a topic exchange",
                warning=True,
            )


def _output(at: Key, output: OutputConfig) -> Iterator[RuleViolation]:
    if not output.queue and not output.exchange:
        yield RuleViolation(((*at, "queue"), (*at, "exchange")), "is missing, and so is exchange", "set one of them")
        return
    if output.max_backlog is not None and not output.queue:
        keys = ((*at, "max_backlog"), (*at, "queue"))
        yield RuleViolation(
            keys,
            "has no effect without a queue: what an exchange leads to cannot be counted",
            "set queue, or remove it",
        )
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
    most = most_consumers(stage.concurrency)
    if stage.consumers != AUTO and stage.consumers > most:
        yield RuleViolation(
            ((*at, "consumers"), (*at, "concurrency")),
            f"is {{value}}; with a concurrency of {stage.concurrency} a stage has at most {most}",
            "lower one of the two",
        )
    seats = stage.concurrency * (stage.consumers if isinstance(stage.consumers, int) else 1)
    if stage.prefetch is not None and stage.concurrency > 1 and stage.prefetch < seats:
        yield RuleViolation(
            ((*at, "prefetch"), (*at, "concurrency")),
            f"is {{value}}: of the {seats:,} messages that its Consumers can work on at once, no more than these are"
            " here",
            "raise prefetch, or leave it out",
            warning=True,
        )
    key, seconds = (hard, limit.hard) if limit.hard else (soft, limit.soft)
    if broker.ack_timeout and seconds > broker.ack_timeout and broker.urls[0].startswith("amqp"):
        yield RuleViolation(
            (key, ("broker", "ack_timeout")),
            f"is {{value}}, longer than the {broker.ack_timeout:g} s after which the broker closes the channel",
            "raise consumer_timeout on the broker and broker.ack_timeout here",
            warning=True,
        )
