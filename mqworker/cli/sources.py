"""`mqworker sources`: the generators and scheduled functions whose messages go into stages."""

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from mqworker.cli import output
from mqworker.cli.options import ANSWER, WAIT_MAX, Failed, ServiceClient, VerbGroup, no_wait, uses_service
from mqworker.exits import Exit

PATIENCE = 60.0  # seconds; the code is checked before a start


@click.group(cls=VerbGroup)
def sources() -> None:
    """Show, start, stop and run the sources: your generators and scheduled functions.

    Examples:
      mqworker sources list
      mqworker sources stop readings
      mqworker sources start readings
      mqworker sources run report
    """


@sources.command("list")
@uses_service(stage=False)
def list_(service: ServiceClient) -> None:
    """Print all sources.

    Example:
      mqworker sources list
    """
    found = service.client.get("/sources")["sources"]
    if service.as_json:
        output.data(found)
    else:
        show_all(found)


def show_all(found: list[dict[str, Any]]) -> None:
    """Print sources in readable form."""
    head = ("source", "into", "state", "position", "items", "rate/s", "last item", "next tick", "missed")
    output.table(head, [_row(one) for one in found])
    for one in found:
        if one["problem"]:
            output.note(f"{output.clean(one['name'])}: {output.clean(one['problem'])}")


@sources.command()
@click.argument("name")
@uses_service(stage=False)
def show(service: ServiceClient, name: str) -> None:
    """Print everything about a source.

    Example:
      mqworker sources show readings
    """
    found = service.client.get(_path(name))
    if service.as_json:
        output.data(found)
        return
    what = f"{found['job']}, into {found['into']}, {found['state']}"
    output.note(f"{output.clean(name)}: {output.clean(what)}")
    if found["problem"]:
        output.note(f"problem: {output.clean(found['problem'])}")
    actual = found["actual"]
    rows: list[tuple[str, Any]] = [("items since the service started", found["items"]), ("restarts", found["restarts"])]
    rows += [(what, value(actual)) for what, value in ROWS] if actual is not None else []
    output.table(("", "at most a second ago"), [(what, _shown(value)) for what, value in rows])


@sources.command()
@click.argument("name")
@no_wait
@uses_service(PATIENCE, stage=False)
def start(service: ServiceClient, name: str, no_wait: bool) -> None:
    """Start a source with the code in the folder, which is checked first; also one that has finished.

    It goes on after its stored position. What the check refuses leaves the source as it is.

    Example:
      mqworker sources start readings
    """
    idle = ("stopped", "starting", "backoff")
    _change(service, name, "start", lambda one: one["state"] not in idle, wait=not no_wait)


@sources.command()
@click.argument("name")
@no_wait
@uses_service(PATIENCE, stage=False)
def stop(service: ServiceClient, name: str, no_wait: bool) -> None:
    """Stop a source in this service; `start` starts it again. Another service that stands by takes it over.

    Example:
      mqworker sources stop readings
    """
    _change(service, name, "stop", lambda one: one["state"] == "stopped", wait=not no_wait)
    if not no_wait and not service.as_json:
        output.note("if another service stands by with this source, it runs there from now on")


@sources.command()
@click.argument("name")
@uses_service(WAIT_MAX, stage=False)
def run(service: ServiceClient, name: str) -> None:
    """Call a scheduled function now, apart from its ticks, and wait until it has ended.

    Example:
      mqworker sources run report
    """
    wait = min(WAIT_MAX, service.timeout)
    done = service.client.call("POST", f"{_path(name)}/run?wait={wait:g}", None, service.timeout + ANSWER)
    if service.as_json:
        output.data(done)
    else:
        items = "1 item" if done["items"] == 1 else f"{done['items']} items"
        ids = f"ids that begin with {output.clean(name)}:run-{done['id']}"
        output.note(f"{output.clean(name)}: {items}, with {ids}")


def _change(
    service: ServiceClient, name: str, what: str, applied: Callable[[dict[str, Any]], bool], *, wait: bool
) -> None:
    """Ask for a change, and wait until it is applied."""
    end = time.monotonic() + service.timeout
    seconds = f"?wait={min(WAIT_MAX, service.timeout):g}" if wait else ""
    answer = service.client.call("POST", f"{_path(name)}/{what}{seconds}", None, service.timeout + ANSWER)
    while wait and not answer["applied"]:
        one = service.client.get(_path(name))
        answer |= {"applied": applied(one), "state": one["state"]}
        if not answer["applied"]:
            if time.monotonic() > end:
                why = f", {one['problem']}" if one["problem"] else ""
                what = f"the change is stored, but source {name} is {one['state']}{why}"
                message = f"{what}; `mqworker sources list` shows it"
                raise Failed(Exit.NO_ANSWER, output.clean(message))
            time.sleep(0.2)
    if service.as_json:
        output.data(answer)
    else:
        state = f": {answer['state']}" if "state" in answer else f": {what} is stored"
        output.note(f"{output.clean(name)}{state}")


ROWS: tuple[tuple[str, Callable[[dict[str, Any]], Any]], ...] = (
    ("pid", lambda actual: actual["pid"]),
    ("stored position", lambda actual: actual["position"]),
    ("items not confirmed", lambda actual: actual["unconfirmed"]),
    ("items a second", lambda actual: actual["rate"]),
    ("seconds since the last item", lambda actual: actual["last_item_seconds"]),
    ("messages in the queue", lambda actual: actual["depth"]),
    ("ticks done", lambda actual: actual["ticks"]),
    ("last tick", lambda actual: (actual["last_tick"] or {}).get("due")),
    ("next tick", lambda actual: actual["due"]),
)


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _row(one: dict[str, Any]) -> list[Any]:
    actual = one["actual"]
    if actual is None:
        return [one["name"], one["into"], one["state"], "-", one["items"], "-", "-", "-", one["missed"]]
    since, position = actual["last_item_seconds"], actual["position"]
    return [
        one["name"],
        one["into"],
        one["state"],
        "-" if position is None else _cut(position),
        one["items"],
        f"{actual['rate']:.1f}",
        "-" if since is None else f"{output.seconds(since)} ago",
        actual["due"] or "-",
        one["missed"],
    ]


def _cut(text: str, most: int = 30) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _path(name: str) -> str:
    return f"/sources/{quote(name, safe='')}"
