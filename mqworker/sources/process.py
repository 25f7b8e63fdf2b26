"""The process of a source: the user's generator or scheduled function, and one connection to the broker.

Runs the user's code in its main thread (user.py), and everything else on a loop in another thread (edge_thread.py);
between them is the handover. Receives a SourceSpec once, then SourceOrders; sends SourceReports, at least once a
second, and log events. When it dies, its supervisor starts it again, and it goes on from the position that is stored at
the broker. It ends by `os._exit`, because threads that the user's code has started must not go on.
"""

import atexit
import sys
import uuid

import msgspec

from mqworker.ipc import logs
from mqworker.ipc.frames import read_frame
from mqworker.ipc.source_messages import SourceSpec
from mqworker.ipc.spawn import Spawned, be_plain


class SourceProcess(Spawned):
    """See the module head."""

    title = "mqw-source"

    def __init__(self, name: str, stage: str) -> None:
        super().__init__(f"{name}.source", stage)

    def load(self) -> None:
        """Import the two sides, which the Service must not import."""
        from mqworker.sources.edge_thread import EdgeThread  # noqa: PLC0415 - the Service imports it, and needs no broker
        from mqworker.sources.user import Source  # noqa: PLC0415 - user code's neighbours, as above

        self._edge, self._source = EdgeThread, Source

    def main(self) -> None:
        """Run the user's code, and end the process."""
        sys.dont_write_bytecode = True  # a .pyc hides the second of two edits in one second from a restart
        spec = msgspec.msgpack.decode(read_frame(self.down.fileno()), type=SourceSpec)
        edge = self._edge(spec, self.down.fileno(), self.up.fileno())
        handler = logs.ForwardingHandler(edge.forward, self.name, spec.config.into)
        logs.use(handler, spec.log_level)
        log = logs.JobLogger(f"mqworker.job.{spec.name}", handler, spec.log_level)
        edge.start()
        be_plain()
        ended = self._source(spec, edge.handover, log, edge.report).run(uuid.uuid4().hex[:12], edge.connect)
        atexit._run_exitfuncs()  # multiprocessing does not run these in its child processes
        sys.stdout.flush()
        edge.end(ended)
