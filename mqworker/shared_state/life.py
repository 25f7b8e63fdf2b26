"""The life of a shared object from its spec to its end: folder, lock, class, state, then the loop.

Runs in the main thread of its process. If something keeps it from serving, it sends a SharedUnfit and the process ends.
"""

import logging
import time

from mqworker.ipc.spawn import be_plain
from mqworker.jobs.code_finder import use_code
from mqworker.jobs.loading import JobLoadError
from mqworker.shared_state import folder as folders
from mqworker.shared_state.instance import SharedClass
from mqworker.shared_state.journal import JournalSync
from mqworker.shared_state.messages import SharedSpec, SharedUnfit
from mqworker.shared_state.outside import Outside
from mqworker.shared_state.recovery import recover
from mqworker.shared_state.schedule import REPORT
from mqworker.shared_state.segments import DamagedState
from mqworker.shared_state.serving import Serving, Trial, status
from mqworker.shared_state.state import SharedState


def live(spec: SharedSpec, outside: Outside, log: logging.Logger) -> None:
    """Serve a shared object until its end; `log` is passed to its methods."""
    try:
        _live(spec, outside, log)
    except JobLoadError as error:
        outside.send(SharedUnfit("code", f"{error.place}: {error.cause}; {error.fix}", error.detail))
    except folders.StateError as error:
        outside.send(SharedUnfit("state", str(error)))
    except DamagedState as error:
        outside.send(SharedUnfit("state", f"the files of the shared object have changed since they were read: {error}"))
    except OSError as error:
        folder = folders.folder_of(spec.state_dir, spec.name)
        what = (
            f"its files in {folder} cannot be written: {error.strerror or error}; free some space or check permissions"
        )
        outside.send(SharedUnfit("disk", what))


def _live(spec: SharedSpec, outside: Outside, log: logging.Logger) -> None:
    folder = folders.folder_of(spec.state_dir, spec.name)
    folders.open_folder(folder)
    if not spec.trial:
        folders.lock(folder)
    sync = JournalSync(folder)
    be_plain()
    try:
        root, copy = use_code(spec.root, spec.copy, spec.state_dir)
    except FileNotFoundError as error:
        outside.send(SharedUnfit("code", str(error)))
        return
    kind = SharedClass.load(spec.job, root, copy)
    reported = 0.0

    def report_loading(state: SharedState) -> None:
        nonlocal reported
        if time.monotonic() >= reported + REPORT:
            reported = time.monotonic()
            outside.send(status(spec, "loading", state))

    recovered = recover(folder, kind, spec.digest, log, fresh=spec.fresh, pulse=report_loading)
    if spec.trial:
        if not Trial(spec, outside, recovered.state).passed():
            return
        folders.lock(folder)
    Serving(spec, folder, recovered, outside, sync).run()
