"""The part of a property block that identifies a message: a small block in place of a large one.

Pure; used by the Producer, which remembers thousands of settled messages by their blocks. Most blocks are small and are
kept as they are. In a large one most of the space is headers: they are skipped without decoding, unless ours are among
them.
"""

from mqworker.amqp import headers
from mqworker.amqp.properties import Headers, Properties, decode_leniently

SMALL = 1_024  # bytes of a block that is kept as it is
_KEPT = (headers.ATTEMPT, headers.CRASHES, headers.QUEUE, headers.DERIVED_ID)
_OURS = headers.PREFIX.encode()  # most blocks have none of ours, which one search finds out
_MARKS = tuple(name.encode() for name in _KEPT)
_HAS_ID = 0x80  # in the second byte of the flags
_BARE = b"\x00\x80"  # flags of properties that are a message id and nothing else
_SHORT, _TABLE = -1, -4
_BEFORE = (  # what comes before the message id: flag, and bytes; _SHORT: a short text, _TABLE: a table
    *((0x8000, _SHORT), (0x4000, _SHORT), (0x2000, _TABLE), (0x1000, 1), (0x0800, 1)),
    *((0x0400, _SHORT), (0x0200, _SHORT), (0x0100, _SHORT)),
)


def has_id(block: bytes) -> bool:
    """Whether a message has an id of its own; that of one without is derived from its content."""
    return len(block) > 1 and block[1] & _HAS_ID != 0


def brief(block: bytes) -> bytes:
    """Return a block with the same id and our counts for the stage; a malformed block may become anything small."""
    if len(block) <= SMALL:
        return block
    if _OURS in block and any(mark in block for mark in _MARKS):
        return _ours(decode_leniently(block))
    found = own_id(block)
    return b"" if found is None else _BARE + len(found).to_bytes() + found


def own_id(block: bytes) -> bytes | None:
    """Return the message's own id; None if it has none. For a malformed block, the value is arbitrary."""
    if not has_id(block):
        return None
    flags = block[0] << 8 | block[1]
    at = 2
    try:
        for flag, size in _BEFORE:
            if not flags & flag:
                continue
            if size == _SHORT:
                at += 1 + block[at]
            elif size == _TABLE:
                at += 4 + int.from_bytes(block[at : at + 4])
            else:
                at += size
        return block[at + 1 : at + 1 + block[at]]
    except IndexError:
        return None


def _ours(properties: Properties) -> bytes:
    table = properties.headers
    kept = {
        name: value for name in _KEPT if isinstance(value := table.get(name), int | str) and len(str(value)) < SMALL
    }
    return Properties(message_id=properties.message_id, headers=Headers(kept)).encode()
