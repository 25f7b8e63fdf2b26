"""`mqworker dlq list|show|replay|drop|export`: dead letters. Looking at them never loses, ages or counts them."""

import base64
import json
import sys
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import click

from mqworker.cli import output
from mqworker.cli.options import Failed, ServiceClient, VerbGroup, must_confirm, stage_path, uses_service
from mqworker.exits import Exit

TIMEOUT = 30.0  # seconds; reading through a long dead-letter queue takes time
LIMIT = 10_000  # dead letters that one request reads through
BATCH = 200  # dead letters in one request


@click.group(cls=VerbGroup)
def dlq() -> None:
    """Show, replay, drop and export dead letters."""


@dlq.command("list")
@click.option("--limit", type=click.IntRange(1, LIMIT), default=100, show_default=True, help="At most this many.")
@uses_service(TIMEOUT)
def list_(service: ServiceClient, limit: int) -> None:
    """Print the dead letters, oldest first.

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
    hint = ""
    if rows:
        first = f"{rows[0][0]} --stage {output.clean(rows[0][1])}" if service.stage or len(found) > 1 else rows[0][0]
        hint = f"; `mqworker dlq show {first}` shows the first in full"
    output.note(f"{len(rows)} dead{hint}")


def _letters(service: ServiceClient, stage: str, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.client.get(stage_path(stage, f"/dlq?limit={limit}"))["dead_letters"]
    return found


def _why(letter: dict[str, Any]) -> tuple[str, str]:
    message = str(letter.get("message", ""))
    kind = str(letter.get("error_type", ""))
    why = f"{kind}: {message}" if kind and message else kind or message
    return letter.get("message_id") or "-", why if len(why) <= 100 else f"{why[:100]}..."


@dlq.command()
@click.argument("letter_id", metavar="ID")
@uses_service(TIMEOUT)
def show(service: ServiceClient, letter_id: str) -> None:
    """Print one dead letter with all the evidence: reason, traceback, headers, body.

    Example:
      mqworker dlq show 1f0c5ab2e94d7733
    """
    letter = service.client.get(stage_path(service.one_stage(), f"/dlq/{quote(letter_id, safe='')}"))
    if service.as_json:
        output.data(letter)
        return
    shown_below = ("headers", "traceback", "body_text", "body_base64", "properties_base64")
    for key, value in letter.items():
        if key not in shown_below and value is not None:
            click.echo(f"{key + ':':17} {output.clean(value)}")
    shown = {f"x-mqworker-{key.replace('_', '-')}" for key in letter}
    for name in letter.get("headers") or {}:
        if name not in shown:
            click.echo(f"header {output.clean(name)}: {output.clean(letter['headers'][name])}")
    if letter.get("traceback"):
        click.echo("traceback:")
        for line in str(letter["traceback"]).splitlines():
            click.echo(f"  {output.clean(line)}")
    click.echo("body:")
    click.echo(f"  {output.clean(letter['body_text'])}")


@dlq.command()
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--all", "every", is_flag=True, help="All dead letters.")
@click.option("--reason", default="", help="All with this reason, e.g. error or crash.")
@click.option("--limit", type=click.IntRange(1, LIMIT), default=LIMIT, help="At most this many, oldest first.")
@click.option("--rate", "-r", type=click.FloatRange(0, min_open=True), metavar="N", help="At most N a second.")
@click.option("--dry-run", is_flag=True, help="Only count them.")
@uses_service(TIMEOUT)
def replay(
    service: ServiceClient,
    ids: tuple[str, ...],
    every: bool,
    reason: str,
    limit: int,
    rate: float | None,
    dry_run: bool,
) -> None:
    """Send dead letters back to the stage's input; their attempts are counted from 1 again.

    Only those that are there at the start are sent: a message that fails again meanwhile is not sent twice.

    Examples:
      mqworker dlq replay 1f0c5ab2e94d7733
      mqworker dlq replay --reason error --dry-run
      mqworker dlq replay --all --rate 50
    """
    if not _chosen(ids, every, reason):
        raise click.UsageError("Give dead letters by ID, or --all, or --reason.")
    stage = service.one_stage()
    chosen = (list(dict.fromkeys(ids)) if ids else _ids(service, stage, reason))[:limit]
    replaying = _Replay(service, stage, chosen, dry=dry_run)
    try:
        replaying.run(rate)
    finally:
        replaying.report()
    if ids and replaying.done < len(chosen):
        raise Failed(Exit.USAGE, f"{len(chosen) - replaying.done} of the given IDs are not in the dead-letter queue")


class _Replay:
    """Sends the chosen dead letters back in batches, and counts them."""

    def __init__(self, service: ServiceClient, stage: str, ids: list[str], *, dry: bool) -> None:
        self.done = 0
        self._service = service
        self._path = stage_path(stage, "/dlq/replay")
        self._ids = ids
        self._dry = dry
        self._progress = output.Progress()

    def run(self, rate: float | None) -> None:
        size = min(BATCH, max(1, int(rate / 4))) if rate else BATCH  # a few batches per second
        began = time.monotonic()
        for first in range(0, len(self._ids), size):
            if rate and not self._dry:
                time.sleep(max(0.0, began + first / rate - time.monotonic()))
            batch = self._ids[first : first + size]
            request = {"ids": batch, "limit": len(batch), "dry": self._dry}
            self.done += self._service.client.call("POST", self._path, request)["replayed"]
            self._progress.update(f"{self.done} of {len(self._ids)} sent back")

    def report(self) -> None:
        self._progress.done()
        if self._service.as_json:
            output.data({"replayed": self.done})
        else:
            output.note(f"{self.done} {'would go' if self._dry else 'sent'} back to the input")


def _ids(service: ServiceClient, stage: str, reason: str) -> list[str]:
    """Return the ids of all dead letters, or of those with one reason, oldest first."""
    letters = _letters(service, stage, LIMIT)
    return list(dict.fromkeys(letter["id"] for letter in letters if reason in ("", letter.get("reason"))))


def _chosen(ids: Iterable[str], every: bool, reason: str) -> bool:
    return bool(ids) + every + bool(reason) == 1


@dlq.command()
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--all", "every", is_flag=True, help="All dead letters.")
@click.option("--reason", default="", help="All with this reason, e.g. error or crash.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@uses_service(TIMEOUT)
def drop(service: ServiceClient, ids: tuple[str, ...], every: bool, reason: str, yes: bool) -> None:
    """Remove dead letters for good; `export` them first if they may still be needed.

    Examples:
      mqworker dlq drop 1f0c5ab2e94d7733
      mqworker dlq drop --reason undecodable --yes
    """
    if not _chosen(ids, every, reason):
        raise click.UsageError("Give dead letters by ID, or --all, or --reason.")
    stage = service.one_stage()
    if not ids:
        ids = tuple(_ids(service, stage, reason))
    if not yes:
        must_confirm(f"Remove {len(ids)} dead letters of {output.clean(stage)} for good?")
    dropped = 0
    for letter_id in ids:
        dropped += service.client.call("DELETE", stage_path(stage, f"/dlq/{quote(letter_id, safe='')}"))["dropped"]
    if service.as_json:
        output.data({"dropped": dropped})
    else:
        output.note(f"{dropped} removed")


@dlq.command()
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--all", "every", is_flag=True, help="All dead letters, as without any choice.")
@click.option("--reason", default="", help="All with this reason, e.g. error or crash.")
@click.option("--limit", type=click.IntRange(1, LIMIT), default=LIMIT, show_default=True, help="At most this many.")
@click.option("--bodies", is_flag=True, help="Only the bodies, one per line, as `mqworker send` reads them.")
@uses_service(TIMEOUT)
def export(service: ServiceClient, ids: tuple[str, ...], every: bool, reason: str, limit: int, bodies: bool) -> None:
    """Print dead letters in full, one JSON document per line; they stay in the queue.

    Examples:
      mqworker dlq export --all > dead.jsonl
      mqworker dlq export --reason crash > crashed.jsonl
      mqworker dlq export --bodies > again.jsonl
    """
    if not _chosen(ids, every, reason) and (ids or every or reason):
        raise click.UsageError("Give dead letters by ID, or --all, or --reason.")
    stage = service.one_stage()
    progress = output.Progress()
    done = 0
    found = list(dict.fromkeys(ids)) if ids else _ids(service, stage, reason)
    chosen = found[:limit]
    left = dict.fromkeys(chosen)
    while left:
        batch = list(left)[:BATCH]
        letters = service.client.get(stage_path(stage, f"/dlq?ids={','.join(batch)}"))["dead_letters"]
        for name in [letter["id"] for letter in letters] or batch:  # none of these is left
            left.pop(name, None)
        for letter in letters:
            if bodies:
                sys.stdout.buffer.write(base64.b64decode(letter["body_base64"]) + b"\n")
            else:
                click.echo(json.dumps(letter, ensure_ascii=False))
        sys.stdout.flush()
        done += len(letters)
        progress.update(f"{done} exported")
    progress.done()
    more = " (the oldest ones; there may be more)" if not ids and len(found) >= limit else ""
    output.note(f"{done} exported{more}")
    if ids and done < len(chosen):
        raise Failed(Exit.USAGE, f"{len(chosen) - done} of the given IDs are not in the dead-letter queue")
