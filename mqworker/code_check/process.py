"""The probe: a short spawned process that looks at the user's code and parameters, says what is wrong, and ends.

The Service imports no user code (decisions 12); whatever the code does when it is imported (crash, hang, print, exit)
happens to the probe. Used at start, by `mqworker check`, and before a change of parameters is stored. It hears its
arguments, says one CodeReport, and is killed at its deadline.
"""

import json
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from mqworker.ipc.messages import CodeReport
from mqworker.ipc.spawn import Spawned, enter_child

DEADLINE = 60.0  # seconds; imports of large libraries are slow


class CodeCheck(Spawned):
    """See the module head."""

    def __init__(self, root: Path, jobs: tuple[str, ...], params: dict[str, Any], answer: Connection) -> None:
        super().__init__(name="code-check")
        self._root = root
        self._jobs = jobs
        self._params = json.dumps(params)
        self._answer = answer
        self._parent = os.getpid()

    def run(self) -> None:
        """Look, answer, end."""
        enter_child("mqw-check", self._parent, (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP))
        os.dup2(2, 1)  # what the user's code prints when it is imported is no answer of ours
        sys.dont_write_bytecode = True  # as in a Consumer, which would read it and miss an edit of the same second
        self._answer.send_bytes(msgspec.msgpack.encode(look(self._root, self._jobs, json.loads(self._params))))


def look(root: Path, jobs: tuple[str, ...], params: dict[str, Any]) -> CodeReport:
    """Import the jobs and validate the parameters, in this process."""
    from mqworker.jobs.chain import check_params  # noqa: PLC0415 - only the probe may come near user code
    from mqworker.jobs.failures import describe  # noqa: PLC0415 - as above
    from mqworker.jobs.loading import JobLoadError, load_chain  # noqa: PLC0415 - as above
    from mqworker.jobs.params import ParamsError, to_plain  # noqa: PLC0415 - as above

    try:
        validated = check_params(load_chain(jobs, root), params)
    except JobLoadError as error:
        return CodeReport([str(error)], [], {})
    except ParamsError as error:
        return CodeReport([], [(field.field, field.message) for field in error.errors], {})
    except Exception as error:  # noqa: BLE001 - user code may raise anything
        what = describe(error)
        return CodeReport([f"{what.type}: {what.message}"], [], {})
    try:
        defaults = json.loads(msgspec.json.encode(to_plain(list(validated.values()))))
    except (TypeError, ValueError, OverflowError):
        defaults = {}
    return CodeReport([], [], defaults)
