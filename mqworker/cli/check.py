"""`mqworker check`: one line for each condition that `run` depends on, with the fix where it is not met.

Imports no user code (a spawned code check does, decision 12) and queries the broker through its own admin connection.

Longer than most modules, because it has a line, and a fix, for each thing that can be wrong before a start.
"""

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from mqworker.address import Address, CallError
from mqworker.cli import output
from mqworker.cli.options import Failed, Verb, config_option, load_config, stages_option
from mqworker.client import Client
from mqworker.config.stop_budget import StopBudget
from mqworker.exits import Exit

if TYPE_CHECKING:
    from mqworker.config.load import Loaded
    from mqworker.config.model import SourceConfig
    from mqworker.ipc.generation import SharedUse
    from mqworker.ipc.records import LogEvent

OK, WARN, FAIL = "ok", "warn", "fail"
STYLE = {OK: "green", WARN: "yellow", FAIL: "red"}


class CheckResult(NamedTuple):
    """One line of the report."""

    grade: str
    what: str
    message: str
    fix: str = ""


@click.command(cls=Verb)
@config_option
@stages_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="For importing the jobs, and for each request to the broker.",
)
def check(config: Path | None, stages: tuple[str, ...], as_json: bool, timeout: float) -> int:
    """Check everything that `mqworker run` needs: one line each, with the fix.

    Exits with 78 when something fails; warnings are not failures. With --stage it checks what `run --stage` needs.

    Examples:
      mqworker check
      mqworker check --config /etc/mqworker/energy.toml --json
    """
    results: list[CheckResult] = []
    for result in _results(config, stages, timeout):
        results.append(result)
        if not as_json:
            _show(result)
    if as_json:
        output.data([result._asdict() for result in results])
    return Exit.CONFIG if any(result.grade == FAIL for result in results) else Exit.OK


def _show(result: CheckResult) -> None:
    grade = click.style(f"{result.grade:4}", fg=STYLE[result.grade])
    message, *more = result.message.splitlines() or [""]  # the user's traceback, if it is about the user's code
    click.echo(f"{grade}  {result.what:14} {output.clean(message)}")
    for line in more:
        click.echo(f"{'':21}{output.clean(line)}")
    if result.fix:
        click.echo(f"{'':21}fix: {output.clean(result.fix)}")


def _results(config: Path | None, stages: tuple[str, ...], timeout: float) -> Iterator[CheckResult]:
    try:
        loaded = load_config(config, stages=stages)
    except Failed as error:
        first, *lines = str(error).splitlines()
        for line in lines or [first]:
            message, _, fix = line.strip().partition("; ")
            yield CheckResult(FAIL, "configuration", message, fix)
        return
    yield CheckResult(OK, "configuration", str(loaded.path or "from the environment only"))
    for warning in loaded.warnings:
        yield CheckResult(WARN, "configuration", warning)
    for part in (_jobs, _sources, _resources, _broker, _state_dir, _control, _supervisor):
        yield from part(loaded, timeout)


def _jobs(loaded: "Loaded", timeout: float) -> Iterator[CheckResult]:
    from mqworker.code_check.client import check_code
    from mqworker.config.programs import shown
    from mqworker.service.part import used_elsewhere

    uses: list[SharedUse] = []
    for name, stage in loaded.config.stages.items():
        shared = loaded.config.shared_classes
        checking = check_code(
            *(name, loaded.root, stage.specs, dict(stage.params), timeout, _show_output),
            shared=shared,
            concurrency=stage.concurrency,
            soft_limit=stage.time_limit.soft,
        )
        answer = asyncio.run(checking)
        for problem in answer.problems:
            fix = f"correct stages.{name}.jobs or the code in {loaded.root}"
            yield CheckResult(FAIL, f"jobs {name}", problem, fix)
        for field, reason in answer.fields:
            yield CheckResult(FAIL, f"params {name}", f"{field}: {reason}", f"correct stages.{name}.params.{field}")
        if not answer.problems and not answer.fields:
            at_once = f"; each Consumer works on {stage.concurrency} at once" if stage.concurrency > 1 else ""
            yield CheckResult(OK, f"jobs {name}", ", ".join(map(shown, stage.specs)) + at_once)
            uses += answer.shared
            if answer.shared:
                names = ", ".join(use.name for use in answer.shared)
                once = "has its effect once"
                if stage.identity == "message_id":
                    once += ' if it has a message_id; for publishers that set none there is `identity = "body"`'
                yield CheckResult(OK, f"shared {name}", f"{names}: each message {once}")
    for name, problem in asyncio.run(used_elsewhere(loaded, uses, _show_output, timeout)).items():
        yield CheckResult(FAIL, f"shared {name}", *problem.split("; ", 1))


def _sources(loaded: "Loaded", timeout: float) -> Iterator[CheckResult]:
    from mqworker.code_check.client import check_code
    from mqworker.control.source_desired import source_kind

    for name, source in loaded.config.sources.items():
        answer = asyncio.run(
            check_code(
                *(f"source {name}", loaded.root, (source.job,), dict(source.params), timeout, _show_output),
                source=source_kind(source),
            )
        )
        for problem in answer.problems:
            fix = f"correct sources.{name}.job or the code in {loaded.root}"
            yield CheckResult(FAIL, f"source {name}", problem, fix)
        for field, reason in answer.fields:
            fix = f"correct sources.{name}.params.{field}"
            yield CheckResult(FAIL, f"source {name}", f"params.{field}: {reason}", fix)
        if not answer.problems and not answer.fields:
            ticks = f"; {_ticks(source)}" if source.scheduled else ""
            yield CheckResult(OK, f"source {name}", f"{source.job}, into {source.into}{ticks}")


def _ticks(source: "SourceConfig") -> str:
    """Return the next three ticks of a schedule."""
    from mqworker.sources.schedule import make_schedule

    schedule = make_schedule(source)
    following = schedule.ticks(time.time_ns() // 1_000_000)
    times = [datetime.fromtimestamp(next(following) / 1000, schedule.zone) for _ in range(3)]
    return "next ticks: " + ", ".join(f"{each:%Y-%m-%d %H:%M:%S}" for each in times) + f" ({schedule.zone})"


def _resources(loaded: "Loaded", _timeout: float) -> Iterator[CheckResult]:
    from mqworker.service.resources import unmet

    for each in unmet(loaded.config.stages):
        yield CheckResult(FAIL, "resources", f"{each.key}: {each.message}", each.fix)


def _show_output(event: "LogEvent") -> None:
    """Print on stderr what the user's code prints while it is imported; stdout is for the results."""
    click.echo(output.clean(event.msg), err=True)


def _broker(loaded: "Loaded", timeout: float) -> Iterator[CheckResult]:
    from mqworker.config.urls import embedded_path, redact_url
    from mqworker.service.broker_kind import lost_url
    from mqworker.service.part import cut_line

    url = ", ".join(map(redact_url, loaded.config.broker.urls))
    if cut := cut_line(loaded):
        yield CheckResult(FAIL, "stages", *cut.split("; ", 1))
    if lost := lost_url(loaded):
        yield CheckResult(FAIL, "broker", *lost.split(": ", 1))
        return
    path = embedded_path(loaded.config.broker.urls[0])
    if path is not None and not path.exists():
        yield CheckResult(OK, "broker", f"{url}: embedded; its file is created at the first start")
        return
    try:
        queues = asyncio.run(_queues(loaded, timeout))
    except (OSError, ValueError) as error:
        yield CheckResult(FAIL, "broker", f"{url}: {error}", "correct broker.url")
        return
    except Exception as error:
        from mqworker.brokers.base import BrokerRefused, BrokerUnavailable

        if not isinstance(error, BrokerRefused | BrokerUnavailable | TimeoutError):
            raise
        reason = str(error) or f"no answer within {timeout:g} s"
        yield CheckResult(FAIL, "broker", f"{url}: {reason}", "start the broker, or correct broker.url")
        return
    yield CheckResult(OK, "broker", f"{url}; {queues}")


async def _queues(loaded: "Loaded", deadline: float) -> str:
    from mqworker.brokers import open_admin

    admin = open_admin(loaded.config.broker)
    try:
        summaries = []
        for stage in loaded.config.stages.values():
            info = await admin.queue(stage.input.queue, deadline)
            summaries.append(f"{stage.input.queue}: {f'{info.messages} waiting' if info else 'will be created'}")
        return ", ".join(summaries)
    finally:
        await admin.close()


def _state_dir(loaded: "Loaded", _timeout: float) -> Iterator[CheckResult]:
    folder = loaded.state_dir
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    fix = f"chown or chmod {nearest}, or set service.state_dir"
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        yield CheckResult(FAIL, "state_dir", f"{folder} cannot be written: {error.strerror}", fix)
        return
    yield CheckResult(OK, "state_dir", str(folder) if nearest == folder else f"{folder} will be created")


def _control(loaded: "Loaded", _timeout: float) -> Iterator[CheckResult]:
    control = loaded.config.control
    address = Address(control.host, control.port, str(loaded.socket), control.token)
    try:
        with Client(address, 2.0) as client:
            snapshot = client.get("/status")
    except CallError as error:
        if error.code != Exit.NOT_RUNNING:
            yield CheckResult(WARN, "control", str(error), "see the log of the service that uses this state_dir")
            return
    else:
        yield CheckResult(
            OK, "control", f"the service is already running (pid {snapshot['pid']}) and answers at {address}"
        )
        return
    if len(os.fsencode(loaded.socket)) > 107:
        yield CheckResult(
            FAIL, "control", f"the path {loaded.socket} is too long for a unix socket", "set control.socket"
        )
        return
    try:
        _try_port(control.host, control.port)
    except OSError as error:
        where = f"{control.host}:{control.port}"
        yield CheckResult(
            FAIL, "control", f"{where}: {error.strerror}", "stop the program that listens there, or set control.port"
        )
        return
    yield CheckResult(OK, "control", f"{control.host}:{control.port or 'any port'} is free")


def _try_port(host: str, port: int) -> None:
    family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(where)
        trial.listen(1)


def _supervisor(loaded: "Loaded", _timeout: float) -> Iterator[CheckResult]:
    """Under supervisord, compare the drain deadline with the time that supervisord allows for stopping."""
    if "SUPERVISOR_ENABLED" not in os.environ:
        return
    drain = loaded.config.service.drain_deadline
    least = StopBudget(drain).least
    fix = f"set stopwaitsecs to at least {least:g} (`mqworker conf supervisor` prints it)"
    stop = _stopwaitsecs()
    if stop is None:
        yield CheckResult(
            WARN, "supervisord", f"runs this, but did not report its stopwaitsecs (drain: {drain:g} s)", fix
        )
    elif stop <= drain:
        yield CheckResult(FAIL, "supervisord", f"kills after {stop:g} s, but draining may take {drain:g} s", fix)
    elif stop < least:
        yield CheckResult(WARN, "supervisord", f"kills after {stop:g} s, but an orderly stop may take {least:g} s", fix)
    else:
        yield CheckResult(OK, "supervisord", f"waits {stop:g} s for a drain of at most {drain:g} s")


def _stopwaitsecs() -> float | None:
    from supervisor.childutils import getRPCInterface

    try:
        known = getRPCInterface(os.environ).supervisor.getAllConfigInfo()
        name = os.environ["SUPERVISOR_PROCESS_NAME"]
        return next(float(info["stopwaitsecs"]) for info in known if info["name"] == name)
    except Exception:  # noqa: BLE001 - XML-RPC may raise anything, and this is only a hint
        return None
