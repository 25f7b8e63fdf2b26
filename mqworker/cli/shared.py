"""`mqworker shared`: the objects that all Consumers share."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from mqworker.cli import output
from mqworker.cli.options import ServiceClient, VerbGroup, uses_service


@click.group(cls=VerbGroup)
def shared() -> None:
    """Show and reset the objects that all Consumers share.

    Examples:
      mqworker shared list
      mqworker shared show neighbours
      mqworker shared reset neighbours
    """


@shared.command("list")
@uses_service(stage=False)
def list_(service: ServiceClient) -> None:
    """Print all shared objects.

    Example:
      mqworker shared list
    """
    found = service.client.get("/shared")["shared"]
    if service.as_json:
        output.data(found)
        return
    rows = [(one["name"], one["class"], one["state"], *_numbers(one["status"])) for one in found]
    output.table(("name", "class", "state", "pid", "calls since start", "remembered", "journal", "snapshot"), rows)
    for one in found:
        if one["problem"]:
            output.note(f"{output.clean(one['name'])}: {output.clean(one['problem'])}")


@shared.command()
@click.argument("name")
@uses_service(stage=False)
def show(service: ServiceClient, name: str) -> None:
    """Print everything about a shared object, with its own description (`describe`).

    Example:
      mqworker shared show neighbours
    """
    found = service.client.get(_path(name))
    if service.as_json:
        output.data(found)
        return
    output.note(f"{output.clean(name)}: {output.clean(found['class'])}, {found['state']}, {found['restarts']} deaths")
    if found["problem"]:
        output.note(f"problem: {output.clean(found['problem'])}")
    status = found["status"]
    if status is None:
        return
    rows = [(what, _shown(value(status))) for what, value in ROWS]
    output.table(("", "of this process, at most a second ago"), rows)
    click.echo(json.dumps(status["described"], indent=1))


@shared.command()
@click.argument("name")
@uses_service(stage=False)
def reset(service: ServiceClient, name: str) -> None:
    """Replace a shared object by a new one. What is remembered of calls stays: no message has its effect again.

    Example:
      mqworker shared reset neighbours
    """
    answer = service.client.call("POST", f"{_path(name)}/reset")
    if service.as_json:
        output.data(answer)
    else:
        output.note(f"{output.clean(name)}: reset")


ROWS: tuple[tuple[str, Callable[[dict[str, Any]], Any]], ...] = (
    ("pid", lambda status: status["pid"]),
    ("calls", lambda status: status["counts"]["calls"]),
    ("of those, answered from what is remembered", lambda status: status["counts"]["repeated"]),
    ("of those, for messages without an id", lambda status: status["counts"]["without_id"]),
    ("of those, raised", lambda status: status["counts"]["failed"]),
    ("made again at the start, from the journal", lambda status: status["counts"]["replayed"]),
    ("of those, with another answer", lambda status: sum(status["diverged"].values())),
    ("messages whose calls are remembered", lambda status: status["remembered"]),
    ("of those, for seven days", lambda status: status["kept"]),
    ("forgotten before their time", lambda status: status["evicted"]),
    ("bytes of journal since the last snapshot", lambda status: status["journal_bytes"]),
    ("seconds since the last snapshot", lambda status: status["snapshot_age"]),
    ("mean seconds of a call", lambda status: status["mean_seconds"]),
    ("code", lambda status: status["digest"][:12]),
)


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _path(name: str) -> str:
    return f"/shared/{quote(name, safe='')}"


def _numbers(status: dict[str, Any] | None) -> tuple[Any, ...]:
    if status is None:
        return ("-",) * 5
    age = status["snapshot_age"]
    snapshot = "none" if age is None else f"{output.seconds(age)} ago"
    return (
        status["pid"],
        status["counts"]["calls"],
        status["remembered"],
        output.size(status["journal_bytes"]),
        snapshot,
    )
