"""`mqworker shared`: the objects that all Consumers share."""

import json
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
    output.table(("name", "class", "state", "calls", "remembered", "journal", "snapshot"), rows)
    for one in found:
        if one["problem"]:
            output.note(f"{output.clean(one['name'])}: {output.clean(one['problem'])}")


@shared.command()
@click.argument("name")
@uses_service(stage=False)
def show(service: ServiceClient, name: str) -> None:
    """Print everything about a shared object, with what it says of itself (`describe`).

    Example:
      mqworker shared show neighbours
    """
    click.echo(json.dumps(service.client.get(_path(name)), indent=1))


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


def _path(name: str) -> str:
    return f"/shared/{quote(name, safe='')}"


def _numbers(status: dict[str, Any] | None) -> tuple[Any, ...]:
    if status is None:
        return ("-",) * 4
    age = status["snapshot_age"]
    snapshot = "none" if age is None else f"{output.seconds(age)} ago"
    return status["counts"]["calls"], status["remembered"], f"{status['journal_bytes'] / 1024:.0f} KiB", snapshot
