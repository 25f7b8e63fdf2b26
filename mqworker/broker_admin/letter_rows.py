"""One dead letter as a row of a list, and the parts of it that can be searched. Pure; used by the broker admin.

Anybody may have written a dead letter: whatever a header holds becomes text of bounded length, or a number, or nothing.
"""

from typing import Any, NamedTuple

from mqworker.amqp import headers
from mqworker.amqp.properties import Properties, decode_leniently
from mqworker.broker_admin import dead_letters
from mqworker.ipc.admin_messages import LetterRow
from mqworker.ipc.json_safe import text, tree
from mqworker.jobs.place import place_in

LONGEST = 300  # characters of an error's text
NAME = 255  # of any other text
SEARCHED = 1_000  # characters of the message's headers that a filter searches


class Seen(NamedTuple):
    """What the catalogue keeps of a letter."""

    row: LetterRow
    searched: tuple[tuple[str, str], ...]  # the message's own headers: name and value


def seen(properties: bytes, body: bytes) -> Seen:
    """Describe a dead letter."""
    letter = dead_letters.letter_id(properties, body)
    properties, body = dead_letters.opened(properties, body)
    decoded = decode_leniently(properties)
    table = decoded.headers
    reason = _text(table.get(headers.REASON))
    replayed = _number(table.get(headers.REPLAYED))
    row = LetterRow(
        id=letter,
        message_id=_name(decoded.message_id),
        reason=reason[:NAME],
        error_type=_text(table.get(headers.ERROR_TYPE))[:NAME],
        place=_place(decoded),
        text=_text(table.get(headers.MESSAGE))[:LONGEST],
        failed_at=_name(table.get(headers.FAILED_AT)),
        first_failed_at=_name(table.get(headers.FIRST_FAILED_AT)),
        attempt=_number(table.get(headers.ATTEMPT)),
        crashes=_number(table.get(headers.CRASHES)),
        generation=_number(table.get(headers.GENERATION)),
        host=_name(table.get(headers.HOST)),
        replayed=replayed or 0,
        content_type=_name(decoded.content_type),
        size=len(body),
        ours=bool(reason),
    )
    return Seen(row, _searched(decoded))


def _place(decoded: Properties) -> str:
    table = decoded.headers
    if named := _text(table.get(headers.PLACE)):
        return named[:NAME]
    evidence = table.get(headers.TRACEBACK) or table.get(headers.EXIT)
    interrupted = table.get(headers.REASON) == "timeout"
    return place_in(_text(evidence), interrupted=interrupted) if isinstance(evidence, str) else ""


def _searched(decoded: Properties) -> tuple[tuple[str, str], ...]:
    pairs, left = [], SEARCHED
    for name in decoded.headers:
        if name.startswith(headers.PREFIX):
            continue
        shown, value = text(name), _text(decoded.headers.get(name))
        pairs.append((shown, value[: max(0, left - len(shown))]))
        left -= len(shown) + len(value) + 2
        if left <= 0:
            break
    return tuple(pairs)


def _text(value: Any) -> str:
    """Return any header as text."""
    if value is None:
        return ""
    found = tree(value)
    return found if isinstance(found, str) else str(found)


def _name(value: Any) -> str | None:
    return None if value is None else _text(value)[:NAME]


def _number(value: Any) -> int | None:
    return value if type(value) is int else None
