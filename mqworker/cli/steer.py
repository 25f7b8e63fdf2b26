"""The verbs that change the desired state: pause, resume, scale, start, stop and restart a stage; log-level; drain.

Each stores the change and waits until it is applied (unless `--no-wait`); log-level is only stored. Without --stage
they act on every stage.
"""

import contextlib
import re
import time
from typing import Any

import click

from mqworker.address import CallError
from mqworker.cli import output
from mqworker.cli.options import Failed, ServiceClient, Verb, no_wait, stage_path, uses_service
from mqworker.cli.params import assignments
from mqworker.exits import Exit

CHANGE_TIMEOUT = 30.0  # seconds within which a change should be applied
DRAIN_TIMEOUT = 60.0  # and a drain should be over
force = click.option("--force", is_flag=True, help="Stop although the broker then deletes messages.")


@click.command(cls=Verb)
@no_wait
@uses_service(CHANGE_TIMEOUT)
def pause(service: ServiceClient, no_wait: bool) -> None:
    """Stop listening: take nothing new, finish what is held.

    Examples:
      mqworker pause
      mqworker pause --stage energy --no-wait
    """
    _each(service, "PUT", "/listening", {"enabled": False}, "paused", no_wait=no_wait)


@click.command(cls=Verb)
@no_wait
@uses_service(CHANGE_TIMEOUT)
def resume(service: ServiceClient, no_wait: bool) -> None:
    """Listen again after `pause`.

    Example:
      mqworker resume --stage energy
    """
    _each(service, "PUT", "/listening", {"enabled": True}, "listening", no_wait=no_wait)


@click.command(cls=Verb, context_settings={"ignore_unknown_options": True})
@click.argument("count", metavar="N|+N|-N|auto")
@no_wait
@uses_service(CHANGE_TIMEOUT)
def scale(service: ServiceClient, count: str, no_wait: bool) -> None:
    """Set the number of Consumers, or change it by N. Busy Consumers finish first.

    With auto: a share of service.processes, which follows the load. A number ends that for this stage, until `scale
    auto` or until the configuration changes.

    Examples:
      mqworker scale 4
      mqworker scale +2 --stage energy
      mqworker scale -1
      mqworker scale auto --stage energy
    """
    if not re.fullmatch(r"[+-]?\d{1,4}|auto", count):
        what = f"{count!r} is neither auto nor a number from 0 to 1024, nor one with + or - before it"
        raise click.BadParameter(what, param_hint="N|+N|-N|auto")
    stage = service.one_stage()
    target = count if count == "auto" else int(count)
    if count[0] in "+-":
        target = max(0, service.client.get(stage_path(stage))["desired"]["consumers"] + int(count))
    result = "a share of service.processes" if target == "auto" else f"{target} Consumer{'' if target == 1 else 's'}"
    service.stage = stage
    _each(service, "PUT", "/consumers", {"count": target}, result, no_wait=no_wait)
    if not target:
        output.note(f"{output.clean(stage)}: nothing computes now; `mqworker scale N` gives it Consumers again")


@click.command(cls=Verb)
@no_wait
@uses_service(CHANGE_TIMEOUT)
def start(service: ServiceClient, no_wait: bool) -> None:
    """Start a stage's processes after `stop`.

    Example:
      mqworker start --stage energy
    """
    _each(service, "POST", "/start", None, "started", no_wait=no_wait)


@click.command(cls=Verb)
@no_wait
@force
@uses_service(DRAIN_TIMEOUT)
def stop(service: ServiceClient, no_wait: bool, force: bool) -> None:
    """Drain a stage and end its processes. The service itself goes on; `start` starts them again.

    Examples:
      mqworker stop --stage energy
      mqworker stop --no-wait
    """
    _each(service, "POST", "/stop?force=true" if force else "/stop", None, "stopped", no_wait=no_wait)


@click.command(cls=Verb)
@click.option(
    "--set",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter that changes with the code; null removes it.",
)
@no_wait
@uses_service(DRAIN_TIMEOUT)
def restart(service: ServiceClient, params: tuple[str, ...], no_wait: bool) -> None:
    """Let new Consumers run the code that is in the folder now; work goes on until they are set up.

    Code that cannot be imported or set up, or that does not accept the parameters, is refused and changes nothing.
    Without --stage it is done for every stage.

    Examples:
      mqworker restart --stage energy
      mqworker restart --set inertia=0.7 --set old_name=null
    """
    payload = {"params": assignments(params, "--set")} if params else None
    _each(service, "POST", "/restart", payload, "restarted", no_wait=no_wait)


@click.command(cls=Verb)
@no_wait
@force
@uses_service(DRAIN_TIMEOUT, stage=False)
def drain(service: ServiceClient, no_wait: bool, force: bool) -> None:
    """End the service as SIGTERM does: finish what is in hand, give the rest back. supervisord does not restart it.

    Examples:
      mqworker drain
      mqworker drain --no-wait
    """
    end = time.monotonic() + service.timeout
    answer: dict[str, Any] = service.client.call("POST", "/drain?force=true" if force else "/drain")
    progress = output.Progress()
    while not no_wait:
        try:
            snapshot = service.status()
        except CallError:  # the service has ended, or only this connection: try again with a new one
            service.client.close()
            with contextlib.suppress(CallError):
                service.status()
                continue
            break
        if time.monotonic() > end:
            progress.done()
            raise Failed(Exit.NO_ANSWER, f"still draining after {service.timeout:g} s: {_in_hand(snapshot)} in hand")
        progress.update(f"draining: {_in_hand(snapshot)} in hand")
        time.sleep(0.1)
    progress.done()
    answer["status"] = "draining" if no_wait else "ended"
    if service.as_json:
        output.data(answer)
    else:
        output.note(answer["status"])


@click.command(cls=Verb, name="log-level")
@click.argument("level", type=click.Choice(["debug", "info", "warning", "error"]))
@uses_service(stage=False)
def log_level(service: ServiceClient, level: str) -> None:
    """Set the least severe events that are logged, in all processes; Consumers follow with their next messages.

    It holds until it is set again or the configured value changes. At debug the life of each message is logged:
    received, begun, and what became of it.

    Example:
      mqworker log-level debug
    """
    answer = service.client.call("PUT", "/log-level", {"level": level})
    if service.as_json:
        output.data(answer)
    else:
        output.note(f"log level {level} (revision {answer['revision']}); Consumers follow with their next messages")


def _in_hand(snapshot: dict[str, Any]) -> int:
    keys = ("held", "dispatched", "computed", "settling")
    views = [view["actual"] for view in snapshot["stages"].values() if view["actual"]]
    return sum(actual.get(key, 0) for actual in views for key in keys)  # an earlier version reports fewer


def _each(service: ServiceClient, method: str, rest: str, payload: Any, result: str, *, no_wait: bool) -> None:
    """Change every selected stage, and print the outcome."""
    answers = {}
    for stage in service.stages():
        answers[stage] = answer = service.change(method, stage, rest, payload, wait=not no_wait)
        if not service.as_json:
            how = "stored, not yet applied" if no_wait else "applied"
            if "change" in answer and not no_wait:
                how = f"generation {answer['generation']}, {how}"
            output.note(f"{output.clean(stage)}: {result} (revision {answer['revision']}, {how})")
    if service.as_json:
        output.data(answers)
