"""Restores the state of a shared object from its files: loads the snapshot, then replays the journal.

Runs in the process of the shared object, at its start; only `take_over` writes. A journal is replayed only under the
code that wrote it, because other code would give other answers. A replay compares answers: if a call gives another
answer than the recorded one, the class is not deterministic; this is counted by method, and the recorded answer stands.
Raises StateError with a sentence (DamagedState becomes one), OSError, JobLoadError.
"""

from collections.abc import Callable
from logging import Logger
from pathlib import Path
from typing import NamedTuple

import msgspec

from mqworker.shared_state import answers, segments, snapshot
from mqworker.shared_state.folder import StateError, check_private
from mqworker.shared_state.instance import SharedClass, SharedInstance
from mqworker.shared_state.journal import Journal
from mqworker.shared_state.memory import CallMemory
from mqworker.shared_state.messages import Entry
from mqworker.shared_state.segments import DamagedState, Files, Segment
from mqworker.shared_state.state import SharedState

_entry = msgspec.msgpack.Decoder(Entry)


class Recovered(NamedTuple):
    """A state, and the files that it comes from."""

    state: SharedState
    files: Files
    made: float | None  # when the snapshot was made, seconds since the epoch
    last: Segment | None  # the head of the last segment
    end: int  # where its readable records end
    size: int  # of its file
    records: int  # how many records, in all segments
    bytes: int  # size of all segments


def recover(
    folder: Path,
    kind: SharedClass,
    digest: str,
    log: Logger,
    *,
    fresh: bool = False,
    pulse: Callable[[SharedState], None] = lambda _: None,
    memory: CallMemory | None = None,
) -> Recovered:
    """Read the state in a folder; `fresh`: restore only what is remembered, and make a new object.

    `pulse` is called after each record that was replayed.
    """
    try:
        return _recover(folder, kind, digest, log, fresh, pulse, CallMemory() if memory is None else memory)
    except DamagedState as error:
        what = f"the state of the shared object in {folder} is damaged: {error}"
        raise StateError(f"{what}; nothing was changed: restore the folder, or move it away") from None
    except msgspec.MsgspecError as error:
        raise StateError(f"the state in {folder} was written by another version of mqworker: {error}") from None


def _recover(
    folder: Path,
    kind: SharedClass,
    digest: str,
    log: Logger,
    fresh: bool,
    pulse: Callable[[SharedState], None],
    memory: CallMemory,
) -> Recovered:
    files = segments.choose(path.name for path in folder.iterdir())
    found = snapshot.read(folder / segments.snapshot_name(files.snapshot)) if files.snapshot else None
    if found is not None:
        memory.load(found.remembered)
        if found.facts.digest != digest:
            memory.forget_answers(answers.is_error)  # what failed may succeed under this code
    other = found is not None and found.facts.digest != digest
    content = kind.new() if found is None or fresh else kind.adopt(found.load, changed=other)
    state = SharedState(SharedInstance(kind, content, log), memory)
    last, end, size, records, total = None, 0, 0, 0, 0
    for number in files.journal:
        path = folder / segments.segment_name(number)
        check_private(path.lstat(), path)
        data = path.read_bytes()
        try:
            last = segments.read_head(data)
            end, size = last.begin, len(data)
            for payload, after in segments.read_records(data, last):
                if last.digest != digest and not fresh:
                    raise StateError(
                        f"the journal in {folder} was written by other code ({last.digest[:12]}, not {digest[:12]}),"
                        " and is replayed only under that"
                    )
                state.replay(_entry.decode(payload), execute=not fresh)
                end, records = after, records + 1
                pulse(state)
            segments.check_tail(data, end, last, last=number == files.journal[-1])
        except DamagedState as error:
            raise DamagedState(f"{path.name}: {error}") from None
        total += end
    return Recovered(state, files, found.facts.made if found else None, last, end, size, records, total)


def take_over(folder: Path, recovered: Recovered, digest: str) -> Journal:
    """Prepare the journal of a recovered state for writing; the caller holds the folder's lock.

    Cuts off a torn tail and removes obsolete files. Raises StateError if the files have changed since they were read.
    """
    files, last = recovered.files, recovered.last
    journal = Journal(folder, digest)
    journal.records, journal.bytes = recovered.records, recovered.bytes
    if segments.choose(path.name for path in folder.iterdir())[:2] != files[:2]:
        raise StateError(f"the state in {folder} has changed since it was read")
    if last is None:
        journal.begin(1)
    else:
        number = files.journal[-1]
        if (folder / segments.segment_name(number)).stat().st_size != recovered.size:
            raise StateError(f"the journal in {folder} has grown since it was read")
        journal.resume(number, last.salt, recovered.end)
        if last.digest != digest:
            journal.begin(number + 1)
    remove(folder, files.obsolete)
    return journal


def obsolete(folder: Path) -> list[str]:
    """Return the files that a snapshot has replaced; raises DamagedState."""
    return segments.choose(path.name for path in folder.iterdir()).obsolete


def remove(folder: Path, names: list[str]) -> None:
    """Remove files that a snapshot has replaced."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
