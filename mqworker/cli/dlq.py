"""`mqworker dlq list|groups|show|replay|drop|export`: dead letters. Looking at them loses and ages none of them."""

import base64
import json
import sys
from typing import Any
from urllib.parse import quote, urlencode

import click

from mqworker.cli import output
from mqworker.cli.options import Failed, ServiceClient, VerbGroup, must_confirm, stage_path, uses_service
from mqworker.cli.paced import Paced, report_replay
from mqworker.cli.selection import Selected, check, filter_option, parsed, reason_option
from mqworker.exits import Exit

TIMEOUT = 30.0  # seconds; reading through a long dead-letter queue takes time
LIMIT = 10_000  # dead letters that one request reads through


@click.group(cls=VerbGroup)
def dlq() -> None:
    """Show, replay, drop and export dead letters."""


@dlq.command("list")
@click.option("--limit", type=click.IntRange(1, LIMIT), default=100, show_default=True, help="At most this many.")
@filter_option
@uses_service(TIMEOUT)
def list_(service: ServiceClient, limit: int, filters: tuple[str, ...]) -> None:
    """Print the dead letters, oldest first.

    Examples:
      mqworker dlq list
      mqworker dlq list --stage energy --json
      mqworker dlq list --filter type=ValueError --filter text=m-17
    """
    chosen = parsed(filters)
    found = {stage: _letters(service, stage, limit, chosen) for stage in service.stages()}
    if service.as_json:
        output.data(found)
        return
    rows = [
        (letter["id"], stage, letter["failed_at"], letter["reason"], *_why(letter))
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


def _letters(service: ServiceClient, stage: str, limit: int, chosen: dict[str, Any]) -> list[dict[str, Any]]:
    query = urlencode({"limit": limit, **chosen})
    found: list[dict[str, Any]] = service.client.get(stage_path(stage, f"/dlq?{query}"))["dead_letters"]
    return found


def _why(letter: dict[str, Any]) -> tuple[str, str]:
    message, kind = str(letter["text"]), str(letter["error_type"])
    why = f"{kind}: {message}" if kind and message else kind or message
    return letter["message_id"] or "-", why if len(why) <= 100 else f"{why[:100]}..."


@dlq.command("groups")
@filter_option
@uses_service(TIMEOUT)
def groups_(service: ServiceClient, filters: tuple[str, ...]) -> None:
    """Print the dead letters in groups by reason, type of error and place in the code, the largest first.

    The key of a group selects its letters: --filter fault=KEY.

    Examples:
      mqworker dlq groups
      mqworker dlq replay --filter fault=8d1f60a2b3c4
    """
    query = urlencode(parsed(filters))
    answers = {stage: service.client.get(stage_path(stage, f"/dlq/groups?{query}")) for stage in service.stages()}
    found = {stage: answer["groups"] for stage, answer in answers.items()}
    if service.as_json:
        output.data(found)
        return
    head = ("key", "stage", "count", "reason", "error", "place", "first", "last", "for example")
    rows = [
        (
            *(group["key"], stage, group["count"], group["reason"], group["error_type"], group["place"]),
            *(group["first"], group["last"], group["text"][:60]),
        )
        for stage, groups in found.items()
        for group in groups
    ]
    if rows:
        output.table(head, rows)
    other = sum(answer.get("other", 0) for answer in answers.values())
    more = f", {other} more in smaller groups" if other else ""
    output.note(f"{sum(row[2] for row in rows)} dead in {len(rows)} groups{more}")


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
    shown_below = (
        *("headers", "traceback", "body_text", "body_base64", "properties_base64"),
        *("preview", "header_rows", "content_encoding", "equal"),
    )
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
@reason_option
@filter_option
@click.option("--limit", type=click.IntRange(1, LIMIT), default=LIMIT, help="At most this many, oldest first.")
@click.option("--rate", "-r", type=click.FloatRange(0, min_open=True), metavar="N", help="At most N a second.")
@click.option("--dry-run", is_flag=True, help="Only count them.")
@uses_service(TIMEOUT)
def replay(
    service: ServiceClient,
    ids: tuple[str, ...],
    every: bool,
    reason: str | None,
    filters: tuple[str, ...],
    limit: int,
    rate: float | None,
    dry_run: bool,
) -> None:
    """Send dead letters back to the stage's input; their attempts are counted from 1 again.

    Only those that are there at the start are sent: a message that fails again meanwhile is not sent twice. Ctrl-C ends
    it; what has gone back by then stays there.

    Examples:
      mqworker dlq replay 1f0c5ab2e94d7733
      mqworker dlq replay --reason error --dry-run
      mqworker dlq replay --filter type=ValueError --filter place="jobs.py:12 in handle"
      mqworker dlq replay --all --rate 50
    """
    chosen = _chosen(ids, every, reason, filters) | {"limit": limit}
    stage = service.one_stage()
    selected = Selected(service, stage, chosen)
    rest = "" if ids else selected.rest(limit)
    if dry_run:
        report_replay(service, selected.count, "would go", rest)
    elif rate:
        Paced(service, stage, _ids(service, stage, chosen), rest).run(rate)
    else:
        view = selected.carry_out("replay", "sent back")
        report_replay(service, view["done"], "sent", rest)
        check(view, "sent back")
    selected.must_have(ids)


def _ids(service: ServiceClient, stage: str, chosen: dict[str, Any]) -> list[str]:
    """Return the id of each dead letter that fits, the oldest first; equal ones have the same."""
    filters = {name: value for name, value in chosen.items() if name not in ("limit", "ids")}
    most = LIMIT if "ids" in chosen else chosen["limit"]
    found = [letter["id"] for letter in _letters(service, stage, most, filters)]
    wanted = frozenset(chosen.get("ids", found))
    return [letter for letter in found if letter in wanted][: chosen["limit"]]


def _chosen(ids: tuple[str, ...], every: bool, reason: str | None, filters: tuple[str, ...]) -> dict[str, Any]:
    """Return the filter for what is asked for; raises UsageError unless it is asked for in one way."""
    chosen = parsed(filters, reason)
    if bool(ids) + every + bool(chosen) != 1:
        raise click.UsageError("Give dead letters by ID, or --all, or --reason and --filter.")
    return {"ids": list(dict.fromkeys(ids))} if ids else chosen


@dlq.command()
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--all", "every", is_flag=True, help="All dead letters.")
@reason_option
@filter_option
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@uses_service(TIMEOUT)
def drop(
    service: ServiceClient, ids: tuple[str, ...], every: bool, reason: str | None, filters: tuple[str, ...], yes: bool
) -> None:
    """Remove dead letters for good; `export` them first if they may still be needed.

    Examples:
      mqworker dlq drop 1f0c5ab2e94d7733
      mqworker dlq drop --reason undecodable --yes
    """
    chosen = _chosen(ids, every, reason, filters)
    stage = service.one_stage()
    selected = Selected(service, stage, chosen)
    if not yes:
        must_confirm(f"Remove {selected.count} dead letters of {output.clean(stage)} for good?")
    view = selected.carry_out("drop", "removed")
    if service.as_json:
        output.data({"dropped": view["done"]})
    else:
        output.note(f"{view['done']} removed{'' if ids else selected.rest(LIMIT)}")
    check(view, "removed")
    selected.must_have(ids)


@dlq.command()
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--all", "every", is_flag=True, help="All dead letters, as without any choice.")
@reason_option
@filter_option
@click.option("--limit", type=click.IntRange(1, LIMIT), default=LIMIT, show_default=True, help="At most this many.")
@click.option("--bodies", is_flag=True, help="Only the bodies, one per line, as `mqworker send` reads them.")
@uses_service(TIMEOUT)
def export(
    service: ServiceClient,
    ids: tuple[str, ...],
    every: bool,
    reason: str | None,
    filters: tuple[str, ...],
    limit: int,
    bodies: bool,
) -> None:
    """Print dead letters in full, one JSON document per line; they stay in the queue.

    Examples:
      mqworker dlq export --all > dead.jsonl
      mqworker dlq export --reason crash > crashed.jsonl
      mqworker dlq export --bodies > again.jsonl
    """
    asked = ids or every or reason is not None or filters
    chosen = (_chosen(ids, every, reason, filters) if asked else {}) | {"limit": limit}
    selected = Selected(service, service.one_stage(), chosen)
    progress = output.Progress()
    done = too_large = 0
    for line in service.client.lines(selected.export_path, service.timeout):
        letter = json.loads(line)
        done += 1
        if letter.get("too_large"):
            too_large += 1
            if bodies:
                continue
        sys.stdout.buffer.write(base64.b64decode(letter["body_base64"]) + b"\n" if bodies else line)
        progress.update(f"{done} exported")
    sys.stdout.flush()
    progress.done()
    output.note(f"{done} exported{'' if ids else selected.rest(limit)}")
    if done < selected.count:
        raise Failed(Exit.INTERNAL, f"{selected.count - done} of {selected.count} were no longer there")
    selected.must_have(ids)
    if too_large:
        raise Failed(Exit.INTERNAL, f"{too_large} of {done} are too large to be exported with their bodies")
