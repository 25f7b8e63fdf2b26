"""`mqworker queues list|purge|delete`: the queues of the configuration, by way of the running service."""

from urllib.parse import quote

import click

from mqworker.cli import output
from mqworker.cli.options import ServiceClient, VerbGroup, must_confirm, uses_service

TIMEOUT = 15.0  # seconds; the service queries the broker


@click.group(cls=VerbGroup)
def queues() -> None:
    """Show, purge and delete queues."""


@queues.command("list")
@uses_service(TIMEOUT)
def list_(service: ServiceClient) -> None:
    """Print each queue of the configuration with its messages and consumers.

    Examples:
      mqworker queues list
      mqworker queues list --stage energy --json
    """
    rows = service.client.get("/queues")["queues"]
    rows = [row for row in rows if service.stage in (None, row["stage"])]
    if not rows:
        service.must_have_stage(service.stage)
    if service.as_json:
        output.data(rows)
        return
    output.table(
        ("queue", "stage", "role", "messages", "consumers"),
        [
            (row["name"], row["stage"], row["role"], *((row["messages"], row["consumers"]) if row["exists"] else "--"))
            for row in rows
        ],
    )


@queues.command()
@click.argument("queue")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@uses_service(TIMEOUT, stage=False)
def purge(service: ServiceClient, queue: str, yes: bool) -> None:
    """Remove all messages from QUEUE that no consumer holds.

    Example:
      mqworker queues purge energy.dlq --yes
    """
    if not yes:
        must_confirm(f"Remove all waiting messages from {output.clean(queue)} for good?")
    answer = service.client.call("POST", f"/queues/{quote(queue, safe='')}/purge")
    if service.as_json:
        output.data(answer)
    else:
        output.note(f"{output.clean(queue)}: {answer['purged']} messages removed")


@queues.command()
@click.argument("queue")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@uses_service(TIMEOUT, stage=False)
def delete(service: ServiceClient, queue: str, yes: bool) -> None:
    """Delete QUEUE with all its messages. A queue that a running stage needs is created again, empty.

    Example:
      mqworker queues delete old.queue --yes
    """
    if not yes:
        must_confirm(f"Delete {output.clean(queue)} and its messages for good?")
    answer = service.client.call("DELETE", f"/queues/{quote(queue, safe='')}")
    if service.as_json:
        output.data(answer)
    else:
        output.note(f"{output.clean(queue)}: deleted, with {answer['deleted']} messages")
