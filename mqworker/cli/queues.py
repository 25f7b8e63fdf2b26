"""`mqworker queues list|purge|delete`: the queues that the configuration names, asked through the running service."""

from urllib.parse import quote

import click

from mqworker.cli import output
from mqworker.cli.options import ServiceClient, VerbGroup, asks

ASK = 15.0  # seconds: the service asks the broker


@click.group(cls=VerbGroup)
def queues() -> None:
    """Show, purge and delete queues."""


@queues.command("list")
@asks(ASK)
def list_(service: ServiceClient) -> None:
    """Print each queue of the configuration, its messages and its consumers.

    Examples:
      mqworker queues list
      mqworker queues list --stage energy --json
    """
    rows = service.client.get("/queues")["queues"]
    rows = [row for row in rows if service.stage in (None, row["stage"])]
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
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@asks(ASK, stage=False)
def purge(service: ServiceClient, queue: str, yes: bool) -> None:
    """Remove all messages of QUEUE that nobody holds.

    Example:
      mqworker queues purge energy.dlq --yes
    """
    if not yes:
        click.confirm(f"Remove all waiting messages of {output.clean(queue)} for good?", abort=True, err=True)
    answer = service.client.call("POST", f"/queues/{quote(queue, safe='')}/purge")
    if service.as_json:
        output.data(answer)
    else:
        output.words(f"{output.clean(queue)}: {answer['purged']} messages removed")


@queues.command()
@click.argument("queue")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@asks(ASK, stage=False)
def delete(service: ServiceClient, queue: str, yes: bool) -> None:
    """Delete QUEUE with all its messages. A queue that a running stage needs is made again, empty.

    Example:
      mqworker queues delete old.queue --yes
    """
    if not yes:
        click.confirm(f"Delete {output.clean(queue)} and its messages for good?", abort=True, err=True)
    answer = service.client.call("DELETE", f"/queues/{quote(queue, safe='')}")
    if service.as_json:
        output.data(answer)
    else:
        output.words(f"{output.clean(queue)}: deleted, with {answer['deleted']} messages")
