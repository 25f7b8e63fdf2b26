"""Whether a dead letter fits a filter. Pure; used by the broker admin.

Raises ValueError, with the field and what is wrong, for an invalid filter.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from mqworker.broker_admin.letter_rows import Seen
from mqworker.ipc.admin_messages import LetterFilter, LetterRow, fault_key

TEXTS = ("reason", "error_type", "place", "message_id")  # fields that must be equal
Fits = Callable[[Seen], bool]


def when(value: str | None) -> float | None:
    """Return a time in RFC 3339 as seconds since the epoch; None if the text is not a time."""
    if not value:
        return None
    try:
        found = datetime.fromisoformat(value)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def fault_of(row: LetterRow) -> str:
    """Return the key of the group that a letter belongs to."""
    return fault_key(row.reason, row.error_type, row.place)


def matcher(asked: LetterFilter) -> Fits:
    """Return a function that returns whether a letter fits all fields of the filter."""
    given = {name: getattr(asked, name) for name in (*TEXTS, "attempt", "generation")}
    tests: list[Fits] = [_has(name, value) for name, value in given.items() if value not in ("", None)]
    if asked.fault:
        tests.append(lambda seen: fault_of(seen.row) == asked.fault)
    if asked.text:
        part = asked.text.casefold()
        tests.append(lambda seen: part in _searchable(seen))
    if asked.header:
        if "=" not in asked.header:
            raise ValueError("header must be NAME=VALUE")
        tests.append(lambda seen: any(f"{name}={value}" == asked.header for name, value in seen.searched))
    for name in ("since", "until"):
        if limit := getattr(asked, name):
            moment = when(limit)
            if moment is None:
                raise ValueError(f"{name} must be a time like 2026-01-31T12:00:00Z")
            tests.append(_after(moment) if name == "since" else _before(moment))
    if asked.ids is not None:
        ids = frozenset(asked.ids)
        tests.append(lambda seen: seen.row.id in ids)
    return lambda seen: all(test(seen) for test in tests)


def _has(name: str, value: str | int) -> Fits:
    return lambda seen: bool(getattr(seen.row, name) == value)


def _after(moment: float) -> Fits:
    return lambda seen: (found := when(seen.row.failed_at)) is not None and found >= moment


def _before(moment: float) -> Fits:
    return lambda seen: (found := when(seen.row.failed_at)) is not None and found < moment


def _searchable(seen: Seen) -> str:
    """Return the texts of a letter without the names of its headers."""
    values = "\n".join(value for _, value in seen.searched)
    return f"{seen.row.message_id or ''}\n{seen.row.text}\n{values}".casefold()
