"""The process of a shared object: one instance of the user's class for all Consumers, one call at a time.

Runs the user's class in its main thread, the only one. Owns the object, the memory of its calls, their journal and
snapshots, and the folder `state_dir/shared/NAME` with the socket on which Consumers call and Producers report what
became of messages. Receives a SharedSpec once, then SharedOrders; sends SharedReports and log events. When it dies, its
parent starts it again, and it goes on where its journal ends; callers send again what was not answered, and nothing
takes effect twice. It ends itself when the class or the state cannot be used (SharedUnfit says why), and when the
journal cannot be written, because a call that is not in the journal must not be answered.
"""

import logging
import os
import sys

import msgspec

from mqworker.ipc import frames, logs
from mqworker.ipc.records import LogEvent
from mqworker.ipc.spawn import Spawned
from mqworker.shared_state.messages import SharedReport, SharedSpec, SharedStatus

ROOM = 16_384  # bytes that the parent has not read; with more in the pipe, a status is skipped: another comes soon

_encode = msgspec.msgpack.Encoder().encode


class SharedObject(Spawned):
    """See the module head."""

    title = "mqw-shared"

    def __init__(self, name: str) -> None:
        super().__init__(f"shared.{name}")

    def load(self) -> None:
        """Import the code that serves the object, which the Service must not import."""
        from mqworker.shared_state.life import live  # noqa: PLC0415 - user code's neighbours; the Service imports this
        from mqworker.shared_state.outside import Outside  # noqa: PLC0415 - as above

        self._live, self._outside = live, Outside

    def main(self) -> None:
        """Take the state over, serve, and end."""
        sys.dont_write_bytecode = True  # a .pyc hides the second of two edits in one second from a restart
        spec = msgspec.msgpack.decode(frames.read_frame(self.down.fileno()), type=SharedSpec)
        handler = logs.ForwardingHandler(self._send, self.name)
        logs.use(handler, spec.log_level)
        log = logs.JobLogger(f"mqworker.job.{spec.name}", handler, spec.log_level)
        self._live(spec, self._outside(self.down.fileno(), self._send, self._warn), log)
        sys.stdout.flush()
        os._exit(0)  # threads and exit handlers of user code must not go on with this state

    def _warn(self, what: str) -> None:
        logs.report(logging.getLogger(__name__), logging.WARNING, "shared_state", what)

    def _send(self, report: SharedReport | LogEvent) -> None:
        fd = self.up.fileno()
        if isinstance(report, SharedStatus) and frames.unread(fd) > ROOM:
            return  # the parent is not reading, and must not hold up the callers
        frames.write_all(fd, frames.pack(_encode(report)))
