"""The probe: a short spawned process that looks at the user's code and parameters, says what is wrong, and ends.

The Service imports no user code (decisions 12); whatever the code does when it is imported (crash, hang, print, exit)
happens to the probe. Used at start, by `mqworker check`, and before a change of parameters is stored. It hears its
arguments, says one ProbeAnswer, and is killed at its deadline.
"""

import asyncio
import json
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from mqworker.messages import ProbeAnswer
from mqworker.processes import SPAWN, Spawned, enter_child, reap

DEADLINE = 60.0  # seconds; imports of large libraries are slow


class Probe(Spawned):
    """See the module head."""

    def __init__(self, root: Path, jobs: tuple[str, ...], params: dict[str, Any], answer: Connection) -> None:
        super().__init__(name="probe")
        self._root = root
        self._jobs = jobs
        self._params = json.dumps(params)
        self._answer = answer
        self._parent = os.getpid()

    def run(self) -> None:
        """Look, answer, end."""
        enter_child("mqw-probe", self._parent, (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP))
        os.dup2(2, 1)  # what the user's code prints when it is imported is no answer of ours
        sys.dont_write_bytecode = True  # as in a Consumer, which would read it and miss an edit of the same second
        self._answer.send_bytes(msgspec.msgpack.encode(look(self._root, self._jobs, json.loads(self._params))))


def look(root: Path, jobs: tuple[str, ...], params: dict[str, Any]) -> ProbeAnswer:
    """Import the jobs and validate the parameters, in this process."""
    from mqworker.jobs.chain import check_params  # noqa: PLC0415 - only the probe may come near user code
    from mqworker.jobs.failures import describe  # noqa: PLC0415
    from mqworker.jobs.loading import JobLoadError, load_chain  # noqa: PLC0415
    from mqworker.jobs.params import ParamsError, to_plain  # noqa: PLC0415

    try:
        validated = check_params(load_chain(jobs, root), params)
    except JobLoadError as error:
        return ProbeAnswer([str(error)], [], {})
    except ParamsError as error:
        return ProbeAnswer([], [(field.field, field.message) for field in error.errors], {})
    except Exception as error:  # noqa: BLE001 - user code may raise anything
        what = describe(error)
        return ProbeAnswer([f"{what.type}: {what.message}"], [], {})
    try:
        defaults = json.loads(msgspec.json.encode(to_plain(list(validated.values()))))
    except (TypeError, ValueError, OverflowError):
        defaults = {}
    return ProbeAnswer([], [], defaults)


class Asked:
    """A probe on its way."""

    def __init__(self, root: Path, jobs: tuple[str, ...], params: dict[str, Any]) -> None:
        self.pipe, far = SPAWN.Pipe(duplex=False)
        self._jobs = jobs
        self.process = Probe(root, jobs, params, far)
        try:
            self.process.start()
        except OSError:
            self.pipe.close()
            raise
        finally:
            far.close()

    def answer(self) -> ProbeAnswer:
        """Read the answer, which is there or never comes."""
        try:
            return msgspec.msgpack.decode(self.pipe.recv_bytes(), type=ProbeAnswer)
        except (EOFError, OSError):
            self.process.join(1)
            how = reap(self.process) or "closed its pipe and lives on"
            return ProbeAnswer([f"importing {', '.join(self._jobs)} ended the process: it {how}"], [], {}, died=True)

    def late(self, deadline: float) -> ProbeAnswer:
        """Give up."""
        words = f"importing {', '.join(self._jobs)} and checking its parameters took longer than {deadline:g} s"
        return ProbeAnswer([words], [], {}, died=True)

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.join(5)
        self.process.close()
        self.pipe.close()


def check_stage(root: Path, jobs: tuple[str, ...], params: dict[str, Any], deadline: float = DEADLINE) -> ProbeAnswer:
    """Ask a probe, blocking; for the command line."""
    asked = Asked(root, jobs, params)
    try:
        return asked.answer() if asked.pipe.poll(deadline) else asked.late(deadline)
    finally:
        asked.close()


async def probe(root: Path, jobs: tuple[str, ...], params: dict[str, Any], deadline: float = DEADLINE) -> ProbeAnswer:
    """Ask a probe from the main loop, which goes on meanwhile."""
    loop = asyncio.get_running_loop()
    try:
        asked = Asked(root, jobs, params)
    except OSError as error:
        return ProbeAnswer([f"the check could not be started: {error.strerror}"], [], {}, died=True)
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
