"""Dead letters in groups: one for each reason, type of error and place in the code. Pure; used by the broker admin.

What differs from message to message (ids and numbers in the texts) does not make separate groups.
"""

from collections.abc import Iterable
from typing import Any

from mqworker.broker_admin.letter_filter import fault_of, when
from mqworker.ipc.admin_messages import LetterRow

MOST = 200  # groups that are listed one by one
HOURS = 48  # hours that are counted one by one; the last one is the present hour


def groups(rows: Iterable[LetterRow], now: float) -> list[dict[str, Any]]:
    """Return the groups, the largest first; `now` is the wall clock."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        key = (row.reason, row.error_type, row.place)
        group = found.get(key)
        if group is None:
            group = found[key] = {
                "key": fault_of(row),
                "reason": row.reason,
                "error_type": row.error_type,
                "place": row.place,
                "count": 0,
                "first": None,
                "last": None,
                "hours": [0] * HOURS,
                "text": row.text,
            }
        group["count"] += 1
        _note_time(group, row, now)
    return sorted(found.values(), key=lambda group: -group["count"])


def largest(made: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Return the largest groups, and how many letters the others have, because any number of groups may be made."""
    return made[:MOST], sum(group["count"] for group in made[MOST:])


def _note_time(group: dict[str, Any], row: LetterRow, now: float) -> None:
    moment = when(row.failed_at)
    if moment is None:
        return
    if group["first"] is None or moment < (when(group["first"]) or 0.0):
        group["first"] = row.failed_at
    if group["last"] is None or moment >= (when(group["last"]) or 0.0):
        group["last"], group["text"] = row.failed_at, row.text
    age = int(max(0.0, now - moment) // 3600)
    if age < HOURS:
        group["hours"][HOURS - 1 - age] += 1
