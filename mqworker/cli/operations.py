"""`mqworker operations list|cancel`: operations on many dead letters, in progress and ended."""

from datetime import datetime
from urllib.parse import quote

import click

from mqworker.cli import output
from mqworker.cli.options import ServiceClient, VerbGroup, uses_service

TIMEOUT = 15.0  # seconds


@click.group(cls=VerbGroup)
def operations() -> None:
    """Show and cancel operations on many dead letters."""


@operations.command("list")
@uses_service(TIMEOUT, stage=False)
def list_(service: ServiceClient) -> None:
    """Print the operations in progress and the last ones that have ended, the oldest first.

    Example:
      mqworker operations list
    """
    found = service.client.get("/operations")["operations"]
    if service.as_json:
        output.data(found)
        return
    rows = [
        (
            each["operation"],
            each["stage"],
            each["kind"],
            each["state"],
            f"{each['done']} of {each['wanted']}",
            datetime.fromtimestamp(each["began"]).astimezone().isoformat(" ", "seconds"),
            each["reason"],
        )
        for each in found
    ]
    if rows:
        output.table(("id", "stage", "kind", "state", "done", "began", "why"), rows)
    output.note(f"{len(rows)} operations")


@operations.command()
@click.argument("operation", metavar="ID")
@uses_service(TIMEOUT, stage=False)
def cancel(service: ServiceClient, operation: str) -> None:
    """End an operation before its next batch; what it has done stays done.

    Example:
      mqworker operations cancel 8d1f60a2b3c4
    """
    view = service.client.call("DELETE", f"/operations/{quote(operation, safe='')}")
    if service.as_json:
        output.data(view)
    else:
        output.note(f"{view['state']}: {view['done']} of {view['wanted']} were moved")
