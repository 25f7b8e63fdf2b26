"""The folder of a shared object, `state_dir/shared/NAME`: its access rights, its lock and its socket.

Used by the process of the shared object, which holds the lock and is the only one that writes there; clients only
connect to the socket. Raises OSError, or StateError with one sentence.
"""

import contextlib
import fcntl
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

SHARED = "shared"  # the folder of all shared objects, in the state folder
LOCK, SOCKET, EXECUTION = "lock", "socket", "execution"
LOCK_PATIENCE = 5.0  # seconds for the processes that a killed predecessor has forked to end
BACKLOG = 512


class StateError(Exception):
    """The state of a shared object cannot be used; one sentence with cause and fix."""


def folder_of(state_dir: str | Path, name: str) -> Path:
    """Return the folder of a shared object."""
    return Path(state_dir) / SHARED / name


def open_folder(path: Path) -> None:
    """Make the folder, or check that nobody else can have written there: a snapshot in it is unpickled."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(path.lstat(), path, stat.S_ISDIR)


def check_private(status: os.stat_result, path: Path, kind: Callable[[int], bool] = stat.S_ISREG) -> None:
    """Raise StateError unless this file belongs to our user, is of the right kind, and is private."""
    if not kind(status.st_mode):
        raise StateError(f"{path} is not what it should be (a link, or another kind of file): remove it")
    if status.st_uid != os.geteuid():
        raise StateError(f"{path} belongs to another user (uid {status.st_uid}): mqworker does not load state from it")
    if status.st_mode & 0o077:
        raise StateError(f"{path} is open to other users: remove their rights with chmod go= {path}")


def lock(path: Path) -> None:
    """Make this process the only one that writes in a folder, until it ends; raises StateError.

    A process that user code forks does not inherit the lock, because it may outlive this one.
    """
    fd = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    end = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                os.close(fd)
                raise StateError(
                    f"another process uses the state in {path}: one of a service with this state_dir, or one that ends"
                ) from None
            time.sleep(0.01)
        else:
            os.register_at_fork(after_in_child=partial(_close_once, [fd]))
            return


def _close_once(fds: list[int]) -> None:
    """Close the descriptors in a forked process, once: in a further fork, the number may belong to another file."""
    while fds:
        os.close(fds.pop())


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give the socket in a folder a short name: its path may have at most 107 bytes, and the folder's may have more."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)


def listen(path: Path) -> socket.socket:
    """Return the listening socket of a folder, non-blocking; the caller holds the lock. Raises OSError."""
    (path / SOCKET).unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as name:
            listening.bind(name)
        (path / SOCKET).chmod(0o600)  # nobody else can enter the folder anyway
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def connect(path: Path, timeout: float) -> socket.socket:
    """Connect to the shared object of a folder; raises OSError while no process listens there."""
    calling = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        calling.settimeout(timeout)
        with _short(path) as name:
            calling.connect(name)
    except BaseException:
        calling.close()
        raise
    return calling


def sync_folder(path: Path) -> None:
    """Make renamed and removed files durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
