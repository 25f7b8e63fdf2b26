"""`mqworker held list|skip`: failed messages that wait in their places, in a stage that keeps an order."""

from urllib.parse import quote

import click

from mqworker.cli import output
from mqworker.cli.options import ServiceClient, VerbGroup, stage_path, uses_service


@click.group(cls=VerbGroup)
def held() -> None:
    """Show failed messages that hold up those behind them, and let one go."""


@held.command("list")
@uses_service()
def list_(service: ServiceClient) -> None:
    """Print the messages that wait in their places for their next attempt: of each stage the oldest 20.

    Examples:
      mqworker held list
      mqworker held list --stage energy --json
    """
    found = {stage: service.client.get(stage_path(stage, "/held")) for stage in service.stages()}
    if service.as_json:
        output.data({stage: answer["held"] for stage, answer in found.items()})
        return
    rows = [
        (
            *(one["message_id"], stage, one["key"] or "-", one["attempt"], output.seconds(one["seconds"])),
            *(one["behind"], _why(one["error_type"], one["error"])),
        )
        for stage, answer in found.items()
        for one in answer["held"]
    ]
    if rows:
        output.table(("message id", "stage", "key", "next attempt", "in", "behind it", "why"), rows)
    total = sum(answer["total"] for answer in found.values())
    output.note(f"{total} held" + ("; `mqworker held skip ID` makes one a dead letter" if rows else ""))


def _why(kind: str, message: str) -> str:
    why = f"{kind}: {message}" if kind and message else kind or message
    return why if len(why) <= 100 else f"{why[:100]}..."


@held.command()
@click.argument("message_id", metavar="ID")
@uses_service()
def skip(service: ServiceClient, message_id: str) -> None:
    """Let a held message go: it becomes a dead letter with the reason skipped, and those behind it go on.

    It can be sent to the input again with `dlq replay`; then it comes after them.

    Example:
      mqworker held skip 1f0c5ab2e94d7733
    """
    stage = service.one_stage()
    answer = service.client.call("POST", stage_path(stage, f"/held/{quote(message_id, safe='')}/skip"))
    if service.as_json:
        output.data(answer)
    else:
        output.note(f"{output.clean(message_id)}: skipped, a dead letter of {output.clean(stage)}")
