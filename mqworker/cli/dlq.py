"""`mqworker dlq list|show|replay|drop|export`: dead letters. Looking at them never loses, ages or counts one."""

import base64
import json
import sys
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import click

from mqworker.cli import output
from mqworker.cli.options import Failed, ServiceClient, VerbGroup, asks, at
from mqworker.exits import Exit

ASK = 30.0  # seconds: a long dead-letter queue is gone through
LIMIT = 10_000  # dead letters that one question goes through
BATCH = 200  # dead letters in one request


@click.group(cls=VerbGroup)
def dlq() -> None:
    """Look at dead letters, send them back, drop or export them."""


@dlq.command("list")
@click.option("--limit", type=click.IntRange(1, LIMIT), default=100, show_default=True, help="How many at most.")
@asks(ASK)
def list_(service: ServiceClient, limit: int) -> None:
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


def _letters(service: ServiceClient, stage: str, limit: int) -> list[dict[str, Any]]:
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
def show(service: ServiceClient, letter: str) -> None:
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
@click.option("--limit", type=click.IntRange(1, LIMIT), default=LIMIT, help="How many at most, the oldest first.")
@click.option("--rate", "-r", type=click.FloatRange(0, min_open=True), metavar="N", help="At most N a second.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@asks(ASK)
def replay(
    service: ServiceClient,
    ids: tuple[str, ...],
    every: bool,
    reason: str,
    limit: int,
    rate: float | None,
    dry_run: bool,
) -> None:
    """Send dead letters back to the stage's input, with their attempts counted anew.

    Those that are there at the start: what dies again meanwhile is not sent a second time.

    Examples:
      mqworker dlq replay 1f0c5ab2e94d7733
      mqworker dlq replay --reason error --dry-run
      mqworker dlq replay --all --rate 50
    """
    if not _chosen(ids, every, reason):
        raise click.UsageError("Name dead letters by ID, or give --all or --reason.")
    stage = service.one_stage()
    chosen = (list(dict.fromkeys(ids)) if ids else _ids(service, stage, reason))[:limit]
    replaying = _Replay(service, stage, chosen, dry=dry_run)
    try:
        replaying.run(rate)
    finally:
        replaying.tell()
    if ids and replaying.done < len(chosen):
        raise Failed(Exit.USAGE, f"{len(chosen) - replaying.done} of the named ones are not there")


class _Replay:
    """Sends the chosen ones back in batches, and keeps count."""

    def __init__(self, service: ServiceClient, stage: str, ids: list[str], *, dry: bool) -> None:
        self.done = 0
        self._service = service
        self._path = at(stage, "/dlq/replay")
        self._ids = ids
        self._dry = dry
        self._progress = output.Progress()

    def run(self, rate: float | None) -> None:
        size = min(BATCH, max(1, int(rate / 4))) if rate else BATCH  # a few bites a second
        began = time.monotonic()
        for first in range(0, len(self._ids), size):
            if rate and not self._dry:
                time.sleep(max(0.0, began + first / rate - time.monotonic()))
            some = self._ids[first : first + size]
            asked = {"ids": some, "limit": len(some), "dry": self._dry}
            self.done += self._service.client.call("POST", self._path, asked)["replayed"]
            self._progress.update(f"{self.done} of {len(self._ids)} sent back")

    def tell(self) -> None:
        self._progress.done()
        if self._service.as_json:
            output.data({"replayed": self.done})
        else:
            output.words(f"{self.done} {'would go' if self._dry else 'sent'} back to the input")


def _ids(service: ServiceClient, stage: str, reason: str) -> list[str]:
    """Ids of all that are there, or of those of one reason; the oldest first."""
    letters = _letters(service, stage, LIMIT)
    return list(dict.fromkeys(letter["id"] for letter in letters if reason in ("", letter.get("reason"))))


def _chosen(ids: Iterable[str], every: bool, reason: str) -> bool:
    return bool(ids) + every + bool(reason) == 1


@dlq.command()
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.option("--reason", default="", help="All of this reason, e.g. error or crash.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@asks(ASK)
def drop(service: ServiceClient, ids: tuple[str, ...], every: bool, reason: str, yes: bool) -> None:
    """Remove dead letters for good; `export` them first if they may still be needed.

    Examples:
      mqworker dlq drop 1f0c5ab2e94d7733
      mqworker dlq drop --reason undecodable --yes
    """
    if not _chosen(ids, every, reason):
        raise click.UsageError("Name dead letters by ID, or give --all or --reason.")
    stage = service.one_stage()
    if not ids:
        ids = tuple(_ids(service, stage, reason))
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
def export(service: ServiceClient, limit: int, bodies: bool) -> None:
    """Print dead letters whole, one JSON document a line; they stay where they are.

    Examples:
      mqworker dlq export > dead.jsonl
      mqworker dlq export --bodies > again.jsonl
    """
    stage = service.one_stage()
    progress = output.Progress()
    done = 0
    left = dict.fromkeys(_ids(service, stage, "")[:limit])
    while left:
        asked = list(left)[:BATCH]
        letters = service.client.get(at(stage, f"/dlq?ids={','.join(asked)}"))["dead_letters"]
        for name in [letter["id"] for letter in letters] or asked:  # none of them is there any more
            left.pop(name, None)
        for told in letters:
            if bodies:
                sys.stdout.buffer.write(base64.b64decode(told["body_base64"]) + b"\n")
            else:
                click.echo(json.dumps(told, ensure_ascii=False))
        sys.stdout.flush()
        done += len(letters)
        progress.update(f"{done} exported")
    progress.done()
    output.words(f"{done} exported")
