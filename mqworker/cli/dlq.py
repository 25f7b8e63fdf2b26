"""`mqworker dlq list|show|replay|drop|export`: dead letters. Looking at them never loses, ages or counts one."""

import base64
import json
import sys
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import click

from mqworker.cli import output
from mqworker.cli.options import Failed, Service, VerbGroup, asks, at
from mqworker.exits import Exit

ASK = 30.0  # seconds: a long dead-letter queue is gone through
LIMIT = 10_000  # dead letters that one question goes through


@click.group(cls=VerbGroup)
def dlq() -> None:
    """Look at dead letters, send them back, drop or export them."""


@dlq.command("list")
@click.option("--limit", type=click.IntRange(1, LIMIT), default=100, show_default=True, help="How many at most.")
@asks(ASK)
def list_(service: Service, limit: int) -> None:
    """Print the dead letters, the oldest first.

    Examples:
      mqworker dlq list
      mqworker dlq list --stage energy --json
    """
    found = {stage: _letters(service, stage, limit) for stage in service.stages()}
    if service.as_json:
        output.data(found)
        return
    rows = [
        (letter["id"], stage, letter.get("failed_at", ""), letter.get("reason", ""), *_why(letter))
        for stage, letters in found.items()
        for letter in letters
    ]
    if rows:
        output.table(("id", "stage", "failed at", "reason", "message id", "why"), rows)
    first = rows[0][0] if rows else ""
    output.words(f"{len(rows)} dead" + (f"; `mqworker dlq show {first}` tells all of the first" if rows else ""))


def _letters(service: Service, stage: str, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.client.get(at(stage, f"/dlq?limit={limit}"))["dead_letters"]
    return found


def _why(letter: dict[str, Any]) -> tuple[str, str]:
    message = str(letter.get("message", ""))
    kind = str(letter.get("error_type", ""))
    why = f"{kind}: {message}" if kind and message else kind or message
    return letter.get("message_id") or "-", why if len(why) <= 100 else f"{why[:100]}..."


@dlq.command()
@click.argument("letter", metavar="ID")
@asks(ASK)
def show(service: Service, letter: str) -> None:
    """Print one dead letter with all evidence: reason, traceback, headers, body.

    Example:
      mqworker dlq show 1f0c5ab2e94d7733
    """
    told = service.client.get(at(service.one_stage(), f"/dlq/{quote(letter, safe='')}"))
    if service.as_json:
        output.data(told)
        return
    late = ("headers", "traceback", "body_text", "body_base64", "properties_base64")
    for key, value in told.items():
        if key not in late and value is not None:
            click.echo(f"{key + ':':17} {output.clean(value)}")
    for name in told.get("headers") or {}:
        if not name.startswith("x-mqworker-"):
            click.echo(f"header {output.clean(name)}: {output.clean(told['headers'][name])}")
    if told.get("traceback"):
        click.echo("traceback:")
        for line in str(told["traceback"]).splitlines():
            click.echo(f"  {output.clean(line)}")
    click.echo("body:")
    click.echo(f"  {output.clean(told['body_text'])}")


@dlq.command()
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.option("--reason", default="", help="All of this reason, e.g. error or crash.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@asks(ASK)
def replay(service: Service, ids: tuple[str, ...], every: bool, reason: str, dry_run: bool) -> None:
    """Send dead letters back to the stage's input, with their attempts counted anew.

    Examples:
      mqworker dlq replay 1f0c5ab2e94d7733
      mqworker dlq replay --reason error --dry-run
      mqworker dlq replay --all
    """
    asked: dict[str, Any] = {"reason": reason, "dry": dry_run}
    if not _chosen(ids, every, reason):
        raise click.UsageError("Name dead letters by ID, or give --all or --reason.")
    if ids:
        asked["ids"] = list(ids)
    answer = service.client.call("POST", at(service.one_stage(), "/dlq/replay"), asked)
    if service.as_json:
        output.data(answer)
    else:
        output.words(f"{answer['replayed']} {'would go' if dry_run else 'sent'} back to the input")
    if ids and answer["replayed"] < len(ids):
        raise Failed(Exit.USAGE, f"{len(ids) - answer['replayed']} of the named ones are not there")


def _chosen(ids: Iterable[str], every: bool, reason: str) -> bool:
    return bool(ids) + every + bool(reason) == 1


@dlq.command()
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.option("--reason", default="", help="All of this reason, e.g. error or crash.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@asks(ASK)
def drop(service: Service, ids: tuple[str, ...], every: bool, reason: str, yes: bool) -> None:
    """Remove dead letters for good; `export` them first if they may still be needed.

    Examples:
      mqworker dlq drop 1f0c5ab2e94d7733
      mqworker dlq drop --reason undecodable --yes
    """
    if not _chosen(ids, every, reason):
        raise click.UsageError("Name dead letters by ID, or give --all or --reason.")
    stage = service.one_stage()
    if not ids:
        letters = _letters(service, stage, LIMIT)
        ids = tuple(letter["id"] for letter in letters if reason in ("", letter.get("reason")))
    if not yes:
        click.confirm(f"Remove {len(ids)} dead letters of {output.clean(stage)} for good?", abort=True, err=True)
    dropped = 0
    for letter in ids:
        dropped += service.client.call("DELETE", at(stage, f"/dlq/{quote(letter, safe='')}"))["dropped"]
    if service.as_json:
        output.data({"dropped": dropped})
    else:
        output.words(f"{dropped} removed")


@dlq.command()
@click.option("--limit", type=click.IntRange(1, LIMIT), default=LIMIT, show_default=True, help="How many at most.")
@click.option("--bodies", is_flag=True, help="Only the bodies, one a line, as `mqworker send` reads them.")
@asks(ASK)
def export(service: Service, limit: int, bodies: bool) -> None:
    """Print dead letters whole, one JSON document a line; they stay where they are.

    Examples:
      mqworker dlq export > dead.jsonl
      mqworker dlq export --bodies > again.jsonl
    """
    stage = service.one_stage()
    progress = output.Progress()
    letters = _letters(service, stage, limit)
    for number, letter in enumerate(letters, 1):
        told = service.client.get(at(stage, f"/dlq/{letter['id']}"))
        if bodies:
            sys.stdout.buffer.write(base64.b64decode(told["body_base64"]) + b"\n")
            sys.stdout.buffer.flush()
        else:
            click.echo(json.dumps(told, ensure_ascii=False))
        progress.update(f"{number} of {len(letters)} exported")
    progress.done()
    output.words(f"{len(letters)} exported")
