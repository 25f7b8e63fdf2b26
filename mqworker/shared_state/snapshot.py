"""Snapshots: a shared object and what is remembered, in one file that replaces the journal before it.

Used by the process of the shared object. `write` runs in a forked copy of it, so that calls go on in the meantime, or
in the process itself at an orderly end. The file is `mark, three sections, checksum, length`: the facts and what is
remembered as MessagePack, the object pickled. Only here is pickle used: the object may be any Python object of the
user's own class, and whoever can write into a folder that only our user can enter could just as well change the code
that we import. `read` checks owner and rights of the file, and its checksum, before anything is unpickled.

Raises OSError, DamagedState (for the file's content), StateError (for its owner and rights), and whatever the user's
class raises.
"""

import os
import pickle
import signal
import struct
import zlib
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import msgspec

from mqworker.ipc.spawn import PR_SET_PDEATHSIG, prctl, set_name
from mqworker.shared_state.folder import check_private, sync_folder
from mqworker.shared_state.instance import cannot_be_kept
from mqworker.shared_state.memory import SavedStage
from mqworker.shared_state.segments import DamagedState, snapshot_name

MARK: Final = b"MQWSNAP1"
_LENGTH = struct.Struct("<Q")
_TAIL = struct.Struct("<IQ")  # checksum and length of all bytes before it
_remembered = msgspec.msgpack.Decoder(dict[str, SavedStage])
FAILED: Final = 3  # exit code of a copy that could not write the state


class SnapshotFacts(msgspec.Struct, frozen=True):
    """The facts about a snapshot, at its beginning."""

    job: str
    digest: str  # of the code under which it was made
    made: float  # seconds since the epoch


_facts = msgspec.msgpack.Decoder(SnapshotFacts)


class SavedState(NamedTuple):
    """What was read, with the object still pickled: loading it runs the user's class."""

    facts: SnapshotFacts
    remembered: dict[str, SavedStage]
    pickled: bytes

    def load(self) -> Any:
        """Unpickle the object; raises whatever its class raises."""
        return pickle.loads(self.pickled)  # noqa: S301 - ours, see the module head


class _Sink:
    """A file that counts the bytes written to it, and computes their checksum."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.checksum, self.length = 0, 0

    def write(self, data: bytes) -> int:
        self.checksum = zlib.crc32(data, self.checksum)
        size = memoryview(data).nbytes
        self.length += size
        self._file.write(data)
        return size


def write(path: Path, facts: SnapshotFacts, remembered: dict[str, SavedStage], state: Any) -> None:
    """Write a snapshot to `path` and sync it to disk."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb", buffering=1 << 20) as file:
        sink = _Sink(file)
        sink.write(MARK)
        for section in (msgspec.msgpack.encode(facts), msgspec.msgpack.encode(remembered)):
            sink.write(_LENGTH.pack(len(section)))
            sink.write(section)
        pickle.Pickler(sink, protocol=5).dump(state)
        file.write(_TAIL.pack(sink.checksum, sink.length))
        file.flush()
        os.fsync(fd)


def read(path: Path) -> SavedState:
    """Read a snapshot; raises StateError, DamagedState."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        check_private(os.fstat(fd), path)
        data = file.read()
    body = memoryview(data)[: -_TAIL.size]
    if len(data) < _TAIL.size or _TAIL.unpack(data[-_TAIL.size :]) != (zlib.crc32(body), len(body)):
        raise DamagedState(f"{path.name} is damaged")
    if bytes(body[: len(MARK)]) != MARK:
        raise DamagedState(f"{path.name} was written by another version of mqworker")
    at = len(MARK)
    sections = []
    for _ in range(2):
        (length,) = _LENGTH.unpack_from(body, at)
        at += _LENGTH.size
        sections.append(body[at : at + length])
        at += length
    return SavedState(_facts.decode(sections[0]), _remembered.decode(sections[1]), bytes(body[at:]))


def publish(folder: Path, new: Path, number: int) -> None:
    """Give a finished snapshot its name."""
    new.rename(folder / snapshot_name(number))
    sync_folder(folder)


def new_path(folder: Path, number: int) -> Path:
    """Return where a snapshot is written before it is finished."""
    return folder / f"{snapshot_name(number)}.new"


def read_failure(path: Path) -> str:
    """Return why a copy that has exited with FAILED could not write."""
    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        return str(error)


def fork_writer(
    path: Path, facts: SnapshotFacts, remembered: dict[str, SavedStage], state: Any, deadline: float
) -> int:
    """Fork a copy of this process that writes a snapshot, and return its pid; the copy exits with 0 on success.

    It dies with this process, or after `deadline` seconds. If it cannot write the state, it exits with FAILED, and the
    file contains the reason.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        set_name("mqw-snapshot")
        if os.getppid() != parent:
            os._exit(1)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, deadline)
        os.closerange(3, 1 << 16)
        write(path, facts, remembered, state)
        code = 0
    except BaseException as error:  # noqa: BLE001 - user code may raise anything; no exception may leave this copy
        path.write_text(cannot_be_kept(state, error))
        code = FAILED
    finally:
        os._exit(code)
