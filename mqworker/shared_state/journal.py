"""The journal of everything that has changed a shared object or its memory, appended before any answer is sent.

Owned by the process of the shared object. `append` gathers records; `flush` hands them to the kernel, which keeps them
if this process is killed. A helper process (`JournalSync`) writes them to disk once a second, so that no call waits for
a slow disk, and a power failure loses one second. Every failure raises OSError and ends the process, because it must
not answer from what is only in its memory. `segments` defines the format of the files.
"""

import os
import signal
from pathlib import Path

import msgspec

from mqworker.ipc.frames import write_all
from mqworker.ipc.spawn import PR_SET_PDEATHSIG, prctl, set_name
from mqworker.shared_state import segments
from mqworker.shared_state.folder import sync_folder
from mqworker.shared_state.messages import Entry

_encode = msgspec.msgpack.Encoder().encode


class Journal:
    """The segment that is being written."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.number = 0
        self.records = 0  # records since the last snapshot
        self.bytes = 0  # bytes since the last snapshot
        self._folder = folder
        self._digest = digest
        self._fd = -1
        self._gathered: list[bytes] = []

    def resume(self, number: int, salt: bytes, end: int) -> None:
        """Go on with a segment that was written under the same code, and cut off what follows `end`."""
        self._fd = os.open(self._path(number), os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        if os.fstat(self._fd).st_size != end:
            os.ftruncate(self._fd, end)
            os.fdatasync(self._fd)
        os.lseek(self._fd, 0, os.SEEK_END)
        self.number = number
        self._mark, self._seed = segments.mark_and_seed(salt)

    def begin(self, number: int) -> None:
        """Begin a segment. The one before is synced first, so that only the last one can have a torn tail."""
        self.flush()
        path, salt = self._path(number), os.urandom(8)
        new = path.with_suffix(".new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            write_all(fd, segments.head(self._digest, salt))
            os.fdatasync(fd)
            if self._fd >= 0:
                os.fdatasync(self._fd)
            new.rename(path)
            sync_folder(self._folder)
        except BaseException:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self.number = fd, number
        self._mark, self._seed = segments.mark_and_seed(salt)

    def append(self, entry: Entry) -> None:
        """Gather one record."""
        record = segments.record(_encode(entry), self._mark, self._seed)
        self._gathered.append(record)
        self.records += 1
        self.bytes += len(record)

    def flush(self) -> None:
        """Hand the gathered records to the kernel."""
        if self._gathered:
            write_all(self._fd, self._gathered[0] if len(self._gathered) == 1 else b"".join(self._gathered))
            self._gathered.clear()

    def close(self) -> None:
        """Close the file without writing what is gathered; does nothing if it is closed already."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _path(self, number: int) -> Path:
        return self._folder / segments.segment_name(number)


class JournalSync:
    """A helper process that syncs a segment to disk on request.

    It is forked before user code is loaded, while this process has one thread and little memory.
    """

    def __init__(self, folder: Path) -> None:
        reading, self._pipe = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._pipe, False)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self._pipe)
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                set_name("mqw-sync")
                if os.getppid() == parent:
                    _sync_segments(reading, folder)
                    code = 0
            finally:
                os._exit(code)
        os.close(reading)

    def request(self, number: int) -> None:
        """Have a segment synced, without waiting; raises OSError if syncing an earlier one has failed.

        If the helper was killed, this process kills itself: its successor forks a new helper while it is still small.
        """
        try:
            os.write(self._pipe, number.to_bytes(8))
        except BlockingIOError:
            return  # the disk is slow, and thousands of requests wait already
        except BrokenPipeError:
            _, status = os.waitpid(self.pid, 0)
            if os.WIFSIGNALED(status):
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError("the journal could not be written to disk") from None


def _sync_segments(reading: int, folder: Path) -> None:
    """Sync the requested segments, until the other end of the pipe is closed."""
    os.closerange(3, reading)
    os.closerange(reading + 1, 1 << 16)
    while asked := os.read(reading, 1 << 16):
        for number in sorted({int.from_bytes(asked[at : at + 8]) for at in range(0, len(asked) - 7, 8)}):
            try:
                fd = os.open(folder / segments.segment_name(number), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # a snapshot has replaced it
            os.fdatasync(fd)
            os.close(fd)
