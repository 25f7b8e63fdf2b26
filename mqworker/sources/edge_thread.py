"""The thread with the loop of a source's process, as the main thread sees it.

The main thread's calls are passed to the edge (edge.py) on the loop, in their order. An error that ends the loop ends
the process, because the main thread would wait for the loop for ever.
"""

import asyncio
import contextlib
import os
import threading
import traceback
from typing import Any

from mqworker.exits import Exit
from mqworker.ipc.records import LogEvent
from mqworker.ipc.source_messages import SourceEnded, SourceReport, SourceSpec
from mqworker.sources.edge import Edge
from mqworker.sources.handover import Handover


class EdgeThread:
    """See the module head."""

    def __init__(self, spec: SourceSpec, down: int, up: int) -> None:
        self.handover = Handover(lambda: self._soon(self._edge.take))
        self._spec = spec
        self._fds = down, up
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()
        self._ready.wait()

    def connect(self) -> None:
        """Connect to the broker, now that the user's code is loaded: one that cannot work must not lock it."""
        self._soon(self._edge.connect)

    def forward(self, event: LogEvent) -> None:
        """Send a log event to the Service."""
        self._soon(self._edge.forward, event)

    def report(self, report: SourceReport) -> None:
        """Send a report to the Service."""
        self._soon(self._edge.send, report)

    def end(self, ended: SourceEnded) -> None:
        """Report that the user's code has ended, and wait for the end of the process."""
        self._soon(self._edge.ended, ended)
        self._thread.join()

    def _soon(self, call: Any, *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the process will
            self._loop.call_soon_threadsafe(call, *arguments)

    # --- in the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException:  # noqa: BLE001 - after any error: the main thread must not wait for ever
            traceback.print_exc()
            os._exit(Exit.INTERNAL)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._edge = Edge(self._spec, self.handover, *self._fds)
        self._ready.set()
        os._exit(await self._edge.run())
