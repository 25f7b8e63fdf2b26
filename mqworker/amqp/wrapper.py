"""A message inside the body of another: for a dead letter whose own properties do not fit into a header frame.

Pure; written by the Producer, read by the broker admin. The body is a line that names the form, the length of the
property block as 4 bytes (big-endian), the block as it was received, and the body as it was received.
"""

import struct

CONTENT_TYPE = "application/x-mqworker-wrapped"
_FIRST_LINE = b"mqworker wrapped message 1\n"
_LENGTH = struct.Struct(">I")


def wrap(properties: bytes, body: bytes) -> bytes:
    """Return a body that holds both."""
    return b"".join((_FIRST_LINE, _LENGTH.pack(len(properties)), properties, body))


def unwrap(wrapped: bytes) -> tuple[bytes, bytes] | None:
    """Return (properties, body) of the message inside; None when there is none."""
    start = len(_FIRST_LINE) + _LENGTH.size
    if not wrapped.startswith(_FIRST_LINE) or len(wrapped) < start:
        return None
    end = start + _LENGTH.unpack_from(wrapped, len(_FIRST_LINE))[0]
    return (wrapped[start:end], wrapped[end:]) if end <= len(wrapped) else None
