"""The files of a run: OUT.part and OUT.dead, which grow by portions, and OUT.map, which says how much is valid.

Used by `mqworker map`: opened on its main thread, written in one other thread. The order of the steps makes a kill at
any moment harmless. To store a portion: append to both files and sync them, then write the state beside the old one,
sync it and rename it. To start: cut both files to the lengths in the state. To end: store a state marked complete,
rename OUT.part to OUT, then remove OUT.map; a later run that finds a complete state does the rest. OUT.dead is
overwritten along with OUT; a file of dead letters with another name is not, because another run may need its content.
Raises MapError and OSError.
"""

import contextlib
import fcntl
import gzip
import os
import shutil
import stat
import tempfile
from pathlib import Path

import msgspec
from msgspec.structs import replace

from mqworker.brokers.files.window import Extent, Portion
from mqworker.exits import Exit
from mqworker.mapping.work import MapError, Work

LEVEL = 6  # of compression
STATE = "state"


class MapState(msgspec.Struct, frozen=True):
    """How far a run has come."""

    work: Work
    dead_file: str
    place: Extent = Extent()
    results: int = 0
    dead: int = 0
    results_length: int = 0  # bytes of OUT.part
    dead_length: int = 0  # bytes of OUT.dead
    complete: bool = False


class MapFiles:
    """See the module head. `state` is what is stored."""

    def __init__(self, output: Path | None, dead: Path, work: Work, *, resumable: bool) -> None:
        """`output`: None for stdout; a pipe or a device is written to directly. `resumable`: the input is a file."""
        self.state = MapState(work, str(dead.absolute()))
        self._output = output
        self._stream = output is None or (output.exists() and not output.is_file())
        self._dead_path = dead
        self._beside = output is not None and dead.absolute() == output.with_name(f"{output.name}.dead").absolute()
        self.resumable = resumable and not self._stream
        self.resumed = False  # this run continues an earlier one
        self._begun = False  # there is a stored state, of this run or an earlier one
        self._ours = self._stream  # whether the folder is ours
        self._lock: int | None = None
        if output is None or self._stream:
            self.folder = Path(tempfile.mkdtemp(prefix="mqworker-map-"))
        else:
            self.folder = output.with_name(f"{output.name}.map")
            self._part = output.with_name(f"{output.name}.part")
            self.left = f"{self.folder} and {self._part}"

    # --- the start

    def claim(self, *, resume: bool) -> None:
        """Make sure that this is the only run with this output, and find out how far an earlier run has come."""
        if resume and not self.resumable:
            raise MapError(Exit.USAGE, "--resume: what comes from a pipe, or goes into one, cannot be resumed")
        if self._stream:
            return
        self._acquire()
        self._begun = (self.folder / STATE).exists()
        found = self._load() if self._begun else None
        if found is None:
            if self._part.exists() and self._part.stat().st_size:
                what = f"{self._part} is left over from a run that cannot be resumed"
                raise MapError(Exit.USAGE, f"{what}: check whether you need it, then remove it")
            return
        self.resumed = True
        if not resume:
            what = f"{self._output} has an unfinished run, {found.place.line:,} lines so far"
            raise MapError(Exit.USAGE, f"{what}: --resume goes on with it; to start over, remove {self.left}")
        for name, before, now in (
            ("jobs", found.work.jobs, self.state.work.jobs),
            ("parameters", found.work.params, self.state.work.params),
            ("form of the lines", found.work.text, self.state.work.text),
            ("file of dead letters", found.dead_file, self.state.dead_file),
        ):
            if before != now:
                what = f"the unfinished run of {self._output} has other {name}: {_shown(before)}, not {_shown(now)}"
                raise MapError(Exit.USAGE, f"{what}; to start over, remove {self.left}")
        self.state = found

    def open(self) -> None:
        """Open the files that are written; unless this raises, there is an unfinished run from here on."""
        full = self._begun or self._beside
        dead = _open(self._dead_path, self.state.dead_length, alone=True, full=full)
        self._dead = _OutFile(dead, gz=self._dead_path.suffix == ".gz")
        if self.resumable and not self._begun:
            self._save(self.state)
            self._begun = True
        if self._stream:
            fd = 1 if self._output is None else os.open(self._output, os.O_WRONLY | os.O_CLOEXEC)
            self._results = _OutFile(fd, gz=False)
        else:
            assert self._output is not None
            gz = self._output.suffix == ".gz"
            self._results = _OutFile(_open(self._part, self.state.results_length), gz=gz)
            _sync_folder(self._part.parent)

    # --- the run; in a thread

    def store(self, portion: Portion) -> None:
        """Write a portion, and once it is on disk, the state."""
        before = self.state
        state = replace(
            before,
            place=portion.place,
            results=before.results + len(portion.results),
            dead=before.dead + len(portion.dead),
            results_length=before.results_length + self._results.append(portion.results),
            dead_length=before.dead_length + self._dead.append(portion.dead),
        )
        self._store(state)

    def complete(self) -> None:
        """Store that everything is written; without results, a .gz file still gets one empty member."""
        length = self.state.results_length or self._results.append([], always=True)
        self._store(replace(self.state, results_length=length, complete=True))

    # --- the end

    def finish(self) -> None:
        """Put the output in its place, also for an earlier run that was killed while doing so."""
        if not self._stream:
            assert self._output is not None
            with contextlib.suppress(FileNotFoundError):  # it has been renamed already
                self._part.replace(self._output)
            _sync_folder(self._part.parent)
        if not self.state.dead and self._dead_path.is_file():
            self._dead_path.unlink()
        for path in self.folder.iterdir():  # the state is last: without it, another run would start over
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != STATE:
                path.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    def leave(self) -> None:
        """Leave an unfinished run as it is; remove a folder that no later run could go on with."""
        if self._ours and not self._begun:
            shutil.rmtree(self.folder, ignore_errors=True)

    # --- inside

    def _acquire(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        path = self.folder / "lock"
        self._lock = fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
            raise MapError(Exit.USAGE, f"another run (pid {owner}) writes {self._output}") from None
        if not os.fstat(fd).st_nlink:
            raise MapError(Exit.USAGE, f"another run has just finished {self._output}")
        self._ours = True
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)

    def _load(self) -> MapState:
        try:
            return msgspec.json.decode((self.folder / STATE).read_bytes(), type=MapState)
        except msgspec.MsgspecError as error:
            what = f"{self.folder / 'state'} cannot be read ({error})"
            raise MapError(Exit.INTERNAL, f"{what}: if another version wrote it, go on with that one") from None

    def _store(self, state: MapState) -> None:
        self._results.sync()
        self._dead.sync()
        if self.resumable:
            self._save(state)
        self.state = state

    def _save(self, state: MapState) -> None:
        new = self.folder / "state.new"
        with new.open("wb", buffering=0) as file:
            file.write(msgspec.json.encode(state))
            os.fsync(file.fileno())
        new.replace(self.folder / STATE)


class _OutFile:
    """An open file to which lines are appended; it may be a pipe or a device."""

    def __init__(self, fd: int, *, gz: bool) -> None:
        self._fd = fd
        self._gz = gz
        self._stored = stat.S_ISREG(os.fstat(fd).st_mode)

    def append(self, lines: list[bytes], *, always: bool = False) -> int:
        """Append lines and return their bytes; in a .gz file as a separate member, so that it can be cut there.

        `always`: append a member even without lines.
        """
        if not (lines or always):
            return 0
        data = b"\n".join((*lines, b""))
        if self._gz:
            data = gzip.compress(data, LEVEL, mtime=0)
        left = memoryview(data)
        while left:
            left = left[os.write(self._fd, left) :]
        return len(data)

    def sync(self) -> None:
        """Return when everything written is on disk."""
        if self._stored:
            os.fdatasync(self._fd)


def _open(path: Path, length: int, *, alone: bool = False, full: bool = True) -> int:
    """Open a file, keeping its first `length` bytes.

    `alone`: no other run may write to it, whatever its output is. `full`: the file may hold more, which is cut off.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return fd
    if alone:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise MapError(Exit.USAGE, f"another run writes its dead letters to {path}: name another file") from None
        status = os.fstat(fd)
    if status.st_size and not full:
        os.close(fd)
        raise MapError(Exit.USAGE, f"{path} has dead letters of an earlier run: move it away, or name another file")
    if status.st_size < length:
        what = f"{path} has {status.st_size:,} bytes, of {length:,} that the unfinished run had written"
        raise MapError(Exit.INTERNAL, f"{what}: it was cut or replaced, and the run cannot go on")
    os.ftruncate(fd, length)
    os.lseek(fd, length, os.SEEK_SET)
    return fd


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _shown(value: object) -> str:
    match value:
        case bool():
            return "text" if value else "JSON"
        case tuple():
            return ", ".join(map(str, value))
        case dict():
            return msgspec.json.encode(value).decode()
    return str(value)
