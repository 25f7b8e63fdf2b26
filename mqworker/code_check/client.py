"""The asking side of a code check, from the Service's main loop or from the command line.

Owns the process and its pipe for the time of one check. Whatever the user's code does to the process (crash, hang,
exit, print) becomes a CodeReport; never raises but for a start that fails on the command line.
"""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from mqworker.code_check.process import CodeCheck
from mqworker.ipc.messages import CodeReport
from mqworker.ipc.spawn import SPAWN, reap

DEADLINE = 60.0  # seconds; imports of large libraries are slow


class _Running:
    """A probe on its way."""

    def __init__(self, root: Path, jobs: tuple[str, ...], params: dict[str, Any]) -> None:
        self.pipe, far = SPAWN.Pipe(duplex=False)
        self._jobs = jobs
        self.process = CodeCheck(root, jobs, params, far)
        try:
            self.process.start()
        except OSError:
            self.pipe.close()
            raise
        finally:
            far.close()

    def answer(self) -> CodeReport:
        """Read the answer, which is there or never comes."""
        try:
            return msgspec.msgpack.decode(self.pipe.recv_bytes(), type=CodeReport)
        except (EOFError, OSError):
            self.process.join(1)
            how = reap(self.process) or "closed its pipe and lives on"
            return CodeReport([f"importing {', '.join(self._jobs)} ended the process: it {how}"], [], {}, died=True)

    def late(self, deadline: float) -> CodeReport:
        """Give up."""
        words = f"importing {', '.join(self._jobs)} and checking its parameters took longer than {deadline:g} s"
        return CodeReport([words], [], {}, died=True)

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.join(5)
        self.process.close()
        self.pipe.close()


def check_stage(root: Path, jobs: tuple[str, ...], params: dict[str, Any], deadline: float = DEADLINE) -> CodeReport:
    """Ask a probe, blocking; for the command line."""
    asked = _Running(root, jobs, params)
    try:
        return asked.answer() if asked.pipe.poll(deadline) else asked.late(deadline)
    finally:
        asked.close()


async def check_code(
    root: Path, jobs: tuple[str, ...], params: dict[str, Any], deadline: float = DEADLINE
) -> CodeReport:
    """Ask a probe from the main loop, which goes on meanwhile."""
    loop = asyncio.get_running_loop()
    try:
        asked = _Running(root, jobs, params)
    except OSError as error:
        return CodeReport([f"the check could not be started: {error.strerror}"], [], {}, died=True)
    readable = asyncio.Event()
    loop.add_reader(asked.pipe.fileno(), readable.set)
    try:
        await asyncio.wait_for(readable.wait(), deadline)
        return asked.answer()
    except TimeoutError:
        return asked.late(deadline)
    finally:
        loop.remove_reader(asked.pipe.fileno())
        asked.close()
