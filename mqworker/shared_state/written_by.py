"""Finds out which code has written the state of a shared object in its folder.

Read by the Service before it starts the object's process: a journal is replayed only under the code that wrote it.
Reads the beginning of files, never a whole one.
"""

import struct
from pathlib import Path
from typing import IO

import msgspec

from mqworker.shared_state import segments, snapshot
from mqworker.shared_state.folder import SHARED

HEAD = 1 << 16  # bytes from the start of a segment; its head is within them
FACTS = 1 << 16  # bytes at most of the facts about a snapshot
_LENGTH = struct.Struct("<Q")


def written_by(folder: Path) -> str:
    """Return the digest of the code that the state needs, or that served it last; "" if it cannot be read.

    The object's process reports what cannot be read.
    """
    try:
        files = segments.choose(path.name for path in folder.iterdir())
        for number in files.journal:
            path = folder / segments.segment_name(number)
            with path.open("rb") as file:
                head = segments.read_head(file.read(HEAD))
            if path.stat().st_size > head.begin:
                return head.digest
        if files.snapshot:
            with (folder / segments.snapshot_name(files.snapshot)).open("rb") as file:
                return _facts_of(file).digest
    except (OSError, segments.DamagedState, msgspec.MsgspecError, struct.error):
        pass
    return ""


def digests_needed(state_dir: Path) -> tuple[str, ...]:
    """Return the digests of the code that the state of all shared objects needs."""
    try:
        folders = list((state_dir / SHARED).iterdir())
    except OSError:
        return ()
    return tuple(filter(None, map(written_by, folders)))


def _facts_of(file: IO[bytes]) -> snapshot.SnapshotFacts:
    if file.read(len(snapshot.MARK)) != snapshot.MARK:
        raise segments.DamagedState("another form")
    (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
    return msgspec.msgpack.decode(file.read(min(length, FACTS)), type=snapshot.SnapshotFacts)
