"""Dead letters of `mqworker map`: a JSON object each, on one line.

Pure; used by the link. The fields are those of a dead letter's headers, the place of the line in the input, and the
line itself as text: `jq -r .input` turns dead letters into an input again.
"""

from typing import Any

import msgspec

from mqworker.amqp import headers
from mqworker.amqp.properties import decode_leniently
from mqworker.brokers.files.window import Line
from mqworker.ipc.consumer_messages import Failure
from mqworker.ipc.json_safe import tree


def letter_of(line: Line, block: bytes) -> tuple[bytes, str]:
    """Return the letter for a line whose dead letter has these properties, and a short text about it."""
    table = decode_leniently(block).headers
    kind, message = (tree(table.get(name, "")) for name in (headers.ERROR_TYPE, headers.MESSAGE))
    return _letter(
        line,
        tree(table.get(headers.REASON, "")),
        f"{kind}: {message}" if message else kind,
        attempt=table.get(headers.ATTEMPT, 1),
        traceback=tree(table.get(headers.TRACEBACK, "")),
        exit=tree(table.get(headers.EXIT, "")),
    )


def letter_for(line: Line, failure: Failure) -> tuple[bytes, str]:
    """Return the letter for a line that failed here, and a short text about it."""
    return _letter(line, failure.reason, f"{failure.type}: {failure.message}")


def _letter(line: Line, reason: str, error: str, **more: Any) -> tuple[bytes, str]:
    text = line.body.decode("utf-8", "backslashreplace")
    record = {"line": line.number, "offset": line.offset, "length": line.length, "reason": reason, "error": error}
    record |= {name: value for name, value in more.items() if value != ""}
    if line.length == len(line.body):
        record["input"] = text
    return msgspec.json.encode(record), f"{reason}: {error}"
