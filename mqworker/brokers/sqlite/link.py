"""`SqliteLink`: a stage's Link to the embedded broker.

Runs on the asyncio loop of the stage's Producer and never blocks it: each call becomes a command to the `Writer`
thread, whose reports come back by `call_soon_threadsafe`, one call for each transaction. It has the methods of the two
interfaces that it connects, each a few lines: twelve of a Link, six of WriterEvents.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from mqworker.brokers.base import LinkState, Publication, Sink, Topology
from mqworker.brokers.sqlite.session import AckCommand, Call, PublishCommand, Release
from mqworker.brokers.sqlite.writer import Close, Consume, CountDead, CountOutput, EndEpoch, Writer


class SqliteLink:
    """Implements `mqworker.brokers.base.Link` on a file; leases in the file are held under `name`."""

    def __init__(self, path: Path, topology: Topology, sink: Sink, *, name: str) -> None:
        self.state = LinkState()
        self._sink = sink
        self._ordered = topology.ordered
        self._era = 0
        self._prefetch = 0
        self._closed = False
        self._dead_asked = False  # we asked how much the dead-letter queue holds; no answer yet
        self._output_asked = False  # we asked how much the output holds; no answer yet
        self._ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer = Writer(path, topology, sink, self, name=f"{name} {uuid.uuid4().hex}")

    def start(self) -> None:
        """See `Link.start`."""
        self._loop = asyncio.get_running_loop()
        self._writer.start()

    def consume(self, prefetch: int, fixed: int = 0) -> None:  # noqa: ARG002 - a change does not reorder this queue
        """See `Link.consume`."""
        if prefetch != self._prefetch:
            self._prefetch = prefetch
            self._writer.commands.put(Consume(prefetch))

    def end_epoch(self) -> None:
        """See `Link.end_epoch`."""
        self._prefetch = 0
        self._writer.commands.put(EndEpoch())

    def ack(self, epoch: int, tag: int, *, multiple: bool) -> None:
        """See `Link.ack`."""
        self._writer.commands.put(AckCommand(epoch, tag, multiple))

    def release(self, epoch: int, tags: Sequence[int]) -> None:
        """See `Link.release`; they keep their places in the queue, marked as redelivered."""
        if self._ordered:
            return
        self._writer.commands.put(Release(epoch, tuple(tags)))

    def publish(self, publish_id: int, publication: Publication) -> None:
        """See `Link.publish`; confirmed means synced to the disk."""
        self.publish_together((publish_id,), (publication,))

    def publish_together(self, publish_ids: Sequence[int], publications: Sequence[Publication]) -> None:
        """See `Link.publish_together`; one command, because a transaction may end between two."""
        if self.state.connected and not self._closed:
            self._writer.commands.put(PublishCommand(tuple(publish_ids), tuple(publications), self._era))
            return
        for publish_id in publish_ids:
            self._sink.refused(publish_id, f"not connected: {self.state.reason}")

    def depth(self) -> int | None:
        """See `Link.depth`; at most a second old."""
        return self._writer.depth

    def others(self) -> int | None:
        """See `Link.others`: of no interest here, because retries are in the same file, and are not late."""
        return None

    def ask_output_depth(self) -> None:
        """See `Link.ask_output_depth`."""
        if not self._output_asked:
            self._output_asked = True
            self._writer.commands.put(CountOutput())

    def ask_dead_depth(self) -> None:
        """See `Link.ask_dead_depth`."""
        if not self._dead_asked:
            self._dead_asked = True
            self._writer.commands.put(CountDead())

    @property
    def stale_acks(self) -> int:
        """The number of acks and releases of an epoch that was over."""
        return self._writer.stale_acks

    async def close(self, deadline: float) -> None:
        """See `Link.close`."""
        if self._closed or self._loop is None:
            self._closed = True
            return
        self._closed = True
        self._writer.commands.put(Close(time.monotonic() + deadline))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), deadline)

    # -- what the writer calls (WriterEvents)

    def post(self, calls: list[Call]) -> None:
        """Schedule these calls on the loop; called in the writer's thread."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop was closed before the Link
            self._loop.call_soon_threadsafe(self._call_all, calls)

    def changed(self, state: LinkState) -> None:
        """Receive the new state."""
        self.state = state
        self._sink.link_changed(state)

    def ended(self) -> None:
        """Note that the writer is about to end."""
        self._ended.set()

    def lost(self, reason: str) -> None:
        """Begin a new era: publications of the present one get no answers any more."""
        self._era += 1
        self._sink.publishes_lost(reason)

    def output_counted(self, depth: int) -> None:
        """Pass on the answer."""
        self._output_asked = False
        self._sink.output_depth(depth)

    def dead_counted(self, depth: int) -> None:
        """Pass on the answer."""
        self._dead_asked = False
        self._sink.dead_depth(depth)

    def _call_all(self, calls: list[Call]) -> None:
        for call in calls:
            try:
                call()
            except Exception as error:  # noqa: BLE001 - one that fails must not prevent the others
                assert self._loop is not None
                self._loop.call_exception_handler(
                    {"message": "error in the embedded broker's link", "exception": error}
                )
