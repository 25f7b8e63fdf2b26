"""`mqworker audit`: who changed what."""

import json
import time
from typing import Any

import click

from mqworker.cli import output
from mqworker.cli.options import ServiceClient, Verb, uses_service


@click.command(cls=Verb)
@click.option("--lines", "-n", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many at most.")
@uses_service()
def audit(service: ServiceClient, lines: int) -> None:
    """Print who asked for what, what it changed, and how it was answered; the newest last.

    Refused commands are included; messages that were sent are not.

    Examples:
      mqworker audit
      mqworker audit --stage energy -n 100
    """
    from urllib.parse import quote

    stage = f"&stage={quote(service.stage, safe='')}" if service.stage else ""
    answer = service.client.get(f"/audit?limit={lines}{stage}")
    if not answer["records"]:
        service.must_have_stage(service.stage)
    if service.as_json:
        output.data(answer)
        return
    for record in answer["records"]:
        click.echo(output.clean(line(record)))
    if not answer["records"]:
        output.note("nothing has been asked for yet")


def line(record: dict[str, Any]) -> str:
    """Return a record as one line."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["time"]))
    call = f"{record['method']} {record['path']}".rstrip()
    answer = f"{record['status']} {record['answer']}".rstrip()
    parts = [f"{when}  {record['by']}: {call}: {answer}", *map(_change, record["changes"])]
    return "; ".join(parts)


def _change(row: dict[str, Any]) -> str:
    old, new = (json.dumps(row[side], ensure_ascii=False) if side in row else "-" for side in ("old", "new"))
    return f"{row['stage']}{'.' if row['stage'] else ''}{row['field']}: {old} -> {new}"
