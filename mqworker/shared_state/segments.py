"""The format of the journal's files, and which files of the folder make up the state.

Pure. The journal is a sequence of numbered segments; snapshot N holds everything that came before segment N. A segment
is a head (mark, salt, digest of the code that wrote it) and records: `salt's first half, length, checksum, payload`.
The salt is random, so nobody can send a message whose content looks like a record.

A file that ends in the middle of a record was cut short by a kill or a power failure: it has a *torn tail*, whose call
was never answered. Anything else is damage: an unreadable record with a readable one after it, a missing segment.
"""

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

MARK: Final = b"MQWJRNL1"
MOST: Final = 4 << 20  # bytes of one record: arguments and answer have 1 MiB each
_HEAD = struct.Struct("<8s8sHI")  # mark, salt, length of the digest, checksum of both
_RECORD = struct.Struct("<4sII")
_NAME = re.compile(r"(snapshot|journal)-(\d{10})")


class DamagedState(Exception):  # noqa: N818 - the name says what was found
    """The files of a shared object cannot be used as they are; nothing was changed."""


class Segment(NamedTuple):
    """The head of a segment."""

    digest: str
    salt: bytes
    begin: int  # where the records begin


class Files(NamedTuple):
    """Which files make up the state."""

    snapshot: int  # 0: there is none
    journal: list[int]  # to be replayed in this order
    obsolete: list[str]  # names of files that a later snapshot has replaced, and of unfinished ones


def snapshot_name(number: int) -> str:
    """Return the name of a snapshot's file."""
    return f"snapshot-{number:010}"


def segment_name(number: int) -> str:
    """Return the name of a segment's file."""
    return f"journal-{number:010}"


def choose(names: Iterable[str]) -> Files:
    """Return which of the folder's files make up the state; raises DamagedState if one is missing."""
    numbers: dict[str, list[int]] = {"snapshot": [], "journal": []}
    obsolete = []
    for name in sorted(names):
        if match := _NAME.fullmatch(name):
            numbers[match[1]].append(int(match[2]))
        elif match := _NAME.match(name):
            obsolete.append(name)
    snapshot = max(numbers["snapshot"], default=0)
    journal = [number for number in numbers["journal"] if number >= max(snapshot, 1)]
    expected = list(range(max(snapshot, 1), max(snapshot, 1) + len(journal)))
    if journal != expected or (snapshot and not journal):
        missing = next((number for number in expected if number not in journal), max(snapshot, 1))
        raise DamagedState(f"{segment_name(missing)} is missing")
    obsolete += [snapshot_name(number) for number in numbers["snapshot"] if number < snapshot]
    obsolete += [segment_name(number) for number in numbers["journal"] if number < snapshot]
    return Files(snapshot, journal, obsolete)


def head(digest: str, salt: bytes) -> bytes:
    """Return the beginning of a segment."""
    name = digest.encode()
    return _HEAD.pack(MARK, salt, len(name), zlib.crc32(salt + name)) + name


def read_head(data: bytes) -> Segment:
    """Return the head of a segment; raises DamagedState."""
    if len(data) >= _HEAD.size:
        mark, salt, length, checksum = _HEAD.unpack_from(data)
        name = data[_HEAD.size : _HEAD.size + length]
        if mark == MARK and len(name) == length and zlib.crc32(salt + name) == checksum:
            return Segment(name.decode(), salt, _HEAD.size + length)
    raise DamagedState("its head is damaged")


def mark_and_seed(salt: bytes) -> tuple[bytes, int]:
    """Return the mark that begins each record of a segment, and the initial value of its checksum."""
    return salt[:4], int.from_bytes(salt[4:])


def record(payload: bytes, mark: bytes, seed: int) -> bytes:
    """Return one record; `mark_and_seed` derives `mark` and `seed` from the segment's salt."""
    return _RECORD.pack(mark, len(payload), zlib.crc32(payload, seed)) + payload


def read_records(data: bytes, segment: Segment) -> Iterator[tuple[bytes, int]]:
    """Yield each record's payload and where the record ends, up to the first one that is cut short or damaged."""
    at = segment.begin
    mark, seed = mark_and_seed(segment.salt)
    while (end := _end(data, at, mark, seed)) > 0:
        yield data[at + _RECORD.size : end], end
        at = end


def check_tail(data: bytes, end: int, segment: Segment, *, last: bool) -> None:
    """Raise DamagedState unless what follows `end`, where the readable records end, is a torn tail.

    Only the last segment may have one.
    """
    if end == len(data):
        return
    if not last:
        raise DamagedState(f"a record at byte {end:,} is damaged, and there are later segments")
    mark, seed = mark_and_seed(segment.salt)
    at = data.find(mark, end + 1)
    while at > 0:
        if _end(data, at, mark, seed):
            raise DamagedState(f"a record at byte {end:,} is damaged, and readable ones follow from byte {at:,} on")
        at = data.find(mark, at + 1)


def _end(data: bytes, at: int, mark: bytes, seed: int) -> int:
    """Return where the record that begins at `at` ends; 0 if there is no readable one."""
    begin = at + _RECORD.size
    if begin > len(data):
        return 0
    found, length, checksum = _RECORD.unpack_from(data, at)
    end = begin + int(length)
    if found != mark or length > MOST or end > len(data) or zlib.crc32(memoryview(data)[begin:end], seed) != checksum:
        return 0
    return end
