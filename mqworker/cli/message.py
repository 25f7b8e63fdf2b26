"""`mqworker message ID`: where one message is, and its way through the stages."""

from typing import Any
from urllib.parse import quote

import click

from mqworker.cli import output
from mqworker.cli.options import ServiceClient, Verb, uses_service

LOOK = 60.0  # seconds that going through the dead letters may take


@click.command(cls=Verb)
@click.argument("message_id", metavar="ID")
@click.option("--look", is_flag=True, help="Go through the dead letters too; takes a while where there are many.")
@uses_service(stage=False)
def message(service: ServiceClient, message_id: str, look: bool) -> None:
    """Show where the message with this id is: in hand, waiting for a retry, settled, dead, or unknown.

    Each stage remembers the messages that it has in hand and the last 10,000 that it has settled since its process
    began. What waits in a queue no stage sees. What was logged about the message: `mqworker logs --message ID`.

    Examples:
      mqworker message 3f6c1a70-7a1e-4a52-a8ac-0c0ad3c1a7a4
      mqworker message frame-4711 --look
    """
    name = quote(message_id.encode("utf-8", "surrogateescape"), safe="")
    path, patience = (f"/messages/{name}?look=true", LOOK) if look else (f"/messages/{name}", None)
    answer = service.client.call("GET", path, None, patience)
    if service.as_json:
        output.data(answer)
        return
    click.echo(output.clean(answer["sentence"]))
    rows = [_row(stage["stage"], trace) for stage in answer["stages"] for trace in stage["traces"]]
    if rows:
        click.echo()
        output.table(("stage", "attempt", "received", "begun", "outcome", "at", "took", "consumer", "why"), rows)
    for letter in answer["letters"]:
        output.note(f"a dead letter of {letter['stage']}: `mqworker dlq show {letter['id']} --stage {letter['stage']}`")
    for stage in answer["unanswered"]:
        output.note(output.clean(f"{stage['stage']} did not answer: {stage['why']}"))
    if answer["state"] == "unknown" and answer["letters_as_of"] is None:
        output.note("`--look` goes through the dead letters too")
    if lines := len(answer["lines"]):
        output.note(f"{lines} log lines: `mqworker logs --message {output.clean(message_id)}`")


def _row(stage: str, trace: dict[str, Any]) -> tuple[Any, ...]:
    at = trace["at"]
    why = f"{trace['error_type']}: {trace['error']}" if trace["error_type"] else trace["error"]
    ended = at["settled"] or at["finished"]
    return (
        *(stage, trace["attempt"], _time(at["received"]), _time(at["begun"]), trace["state"], _time(ended)),
        output.seconds(trace["duration_s"]) if trace["duration_s"] else "-",
        "-" if trace["consumer"] is None else trace["consumer"],
        f"{why[:80]}{f' ({place})' if (place := trace['place']) else ''}" or "-",
    )


def _time(text: str | None) -> str:
    return text[11:23] if text else "-"
