"""Arrays of numpy in message bodies, exactly: for programs that send to a stage or read its results.

    from mqworker import arrays

    body = arrays.pack({"camera": 7, "frame": frame})       # publish it with content_type=arrays.MSGPACK
    frame = arrays.unpack(result)["frame"]

    body = arrays.to_npy(frame)                             # an array alone, with content_type=arrays.NPY

Needs no service. dtype, shape and order of every array survive; docs/bodies.md describes the format. Every function
raises only ValueError, with one sentence.
"""

from typing import Any

from mqworker.jobs.codecs import UndecodableError, UnencodableError, decode, encode_msgpack
from mqworker.jobs.content_types import MSGPACK_TYPE as MSGPACK
from mqworker.jobs.npy import NPY_TYPE as NPY
from mqworker.jobs.npy import from_npy, to_npy

__all__ = ["MSGPACK", "NPY", "from_npy", "pack", "to_npy", "unpack"]


def pack(value: Any) -> bytes:
    """Return a value as MessagePack; arrays may be anywhere in its lists and dicts, but not in keys."""
    try:
        return encode_msgpack(value)
    except UnencodableError as error:
        raise ValueError(str(error)) from None


def unpack(body: bytes) -> Any:
    """Return the value of a MessagePack body; its arrays are copies, which may be changed."""
    try:
        return decode(body, MSGPACK, None, "msgpack")
    except UndecodableError as error:
        raise ValueError(str(error)) from None
