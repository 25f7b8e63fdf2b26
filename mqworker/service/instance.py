"""Becomes the only instance of a service: prepares its state folder, its lock, and the settings that the process needs.

Runs once, at the start of the Service, before any process is started. Owns the lock, which is held as long as the
Service or any Producer lives. Raises StartError: one sentence with cause and fix.
"""

import contextlib
import errno
import fcntl
import logging
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from mqworker.config.load import Loaded
from mqworker.config.model import AUTO, Config, StageConfig
from mqworker.config.stop_budget import StopBudget
from mqworker.exits import Exit
from mqworker.ipc import logs
from mqworker.ipc.spawn import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, prctl
from mqworker.service.broker_kind import lost_url
from mqworker.service.part import cut_line
from mqworker.service.resources import unmet

REMAINS_PATIENCE = 3.0  # seconds that a killed instance's processes may take to end
OWN = "service.state_dir and control.port (MQWORKER_SERVICE__STATE_DIR, MQWORKER_CONTROL__PORT)"
FILES = 4096  # descriptors that are requested
_NO_ROOM = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOENT, errno.ENOSYS)  # /dev/shm is missing or unfit

log = logging.getLogger("mqworker.service.instance")


class StartError(Exception):
    """The service cannot start; `code` is the exit code, the message one sentence with cause and fix."""

    def __init__(self, code: Exit, message: str) -> None:
        self.code = code
        super().__init__(message)


def prepare(loaded: Loaded) -> None:
    """Set this process up as the parent of the tree: state folder, limits, prctl; raises StartError."""
    if wrong := lost_url(loaded) or cut_line(loaded):
        raise StartError(Exit.CONFIG, wrong)
    folder = loaded.state_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe_file = folder / ".writable"
        probe_file.write_bytes(b"")
        probe_file.unlink()
    except OSError as error:
        raise StartError(
            Exit.CONFIG, f"the state folder {folder} cannot be written ({error.strerror}); set service.state_dir"
        ) from None
    be_parent(loaded.config.stages, _consumers(loaded.config) + len(loaded.config.sources))
    if "SUPERVISOR_ENABLED" in os.environ:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def be_parent(stages: Mapping[str, StageConfig], consumers: int) -> None:
    """Make sure that this process can have so many Consumers below it, and what they start; raises StartError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))
    needed = 64 + 15 * consumers
    if min(max(soft, FILES), hard) < needed:
        raise StartError(Exit.CONFIG, f"{needed} descriptors are needed, {hard} are allowed: raise `ulimit -n`")
    _check_semaphores()
    if missing := [f"{each.key}: {each.message}; {each.fix}" for each in unmet(stages)]:
        raise StartError(Exit.CONFIG, "; ".join(missing))
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def _consumers(config: Config) -> int:
    """Return how many Consumers the stages may get, assuming at least 8 for each."""
    counts = [stage.consumers for stage in config.stages.values()]
    shared = config.service.processes if AUTO in counts else 0
    return shared + sum(8 if count == AUTO else max(count, 8) for count in counts)


def _check_semaphores() -> None:
    """Make a semaphore as a test, because each Consumer will need some; raises StartError."""
    try:
        multiprocessing.get_context("fork").Lock()  # this kind has no name that could be left behind
    except OSError as error:
        what = f"semaphores cannot be made in /dev/shm ({error.strerror})"
        fix = ": mount a writable tmpfs there that this user may write to" if error.errno in _NO_ROOM else ""
        raise StartError(Exit.CONFIG, what + fix) from None


def acquire_lock(path: Path, drain_deadline: float) -> int:
    """Become the only instance with this state folder, and return the descriptor of the lock; raises StartError.

    Under supervisord it waits until the previous instance has drained; otherwise only until a killed one is gone.
    """
    patience = StopBudget(drain_deadline).successor if "SUPERVISOR_ENABLED" in os.environ else REMAINS_PATIENCE
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    end = time.monotonic() + patience
    reported = False
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
            if not reported:
                logs.report(
                    log, logging.WARNING, "waiting", f"another instance (pid {owner}) holds {path}; waiting for it"
                )
                reported = True
            if time.monotonic() > end:
                what = f"another instance (pid {owner}) runs with the state folder {path.parent}"
                raise StartError(Exit.INTERNAL, f"{what}: stop it, or give this one its own {OWN}") from None
            time.sleep(0.1)
        else:
            with contextlib.suppress(OSError):  # the disk is full; the lock works nevertheless
                os.ftruncate(fd, 0)
                os.pwrite(fd, str(os.getpid()).encode(), 0)
            return fd
