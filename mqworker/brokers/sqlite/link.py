"""`SqliteLink`: a stage's hold on the embedded broker.

Runs on the asyncio loop of the stage's Producer and never blocks it: every call becomes a command to the `Writer`
thread, and what that says comes back by `call_soon_threadsafe`, one call for each transaction.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from mqworker.brokers.base import LinkState, Publication, Sink, Topology
from mqworker.brokers.sqlite.session import AckCommand, Call, PublishCommand, Release
from mqworker.brokers.sqlite.writer import Close, Consume, Writer


class SqliteLink:
    """Implements `mqworker.brokers.base.Link` on a file; `name` says in that file who holds the leases."""

    def __init__(self, path: Path, topology: Topology, sink: Sink, *, name: str) -> None:
        self.state = LinkState()
        self._sink = sink
        self._era = 0
        self._prefetch = 0
        self._closed = False
        self._ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer = Writer(path, topology, sink, self, name=f"{name} {uuid.uuid4().hex}")

    def start(self) -> None:
        """Begin to open the file; the result comes through the Sink."""
        self._loop = asyncio.get_running_loop()
        self._writer.start()

    def consume(self, prefetch: int, fixed: int = 0) -> None:  # noqa: ARG002 - a change costs no order here
        """Want at most `prefetch` unsettled deliveries; 0: no new ones."""
        if prefetch != self._prefetch:
            self._prefetch = prefetch
            self._writer.commands.put(Consume(prefetch))

    def ack(self, epoch: int, tag: int, *, multiple: bool) -> None:
        """Settle a delivery, or all of its epoch up to it."""
        self._writer.commands.put(AckCommand(epoch, tag, multiple))

    def release(self, epoch: int, tags: Sequence[int]) -> None:
        """Give deliveries back to their place in the queue, marked as redelivered."""
        self._writer.commands.put(Release(epoch, tuple(tags)))

    def publish(self, publish_id: int, publication: Publication) -> None:
        """PublishCommand; confirmed means synced to the disk."""
        if self.state.connected and not self._closed:
            self._writer.commands.put(PublishCommand(publish_id, publication, self._era))
        else:
            self._sink.refused(publish_id, f"not connected: {self.state.reason}")

    def depth(self) -> int | None:
        """Messages ready in the input queue, as seen in the last second."""
        return self._writer.depth

    @property
    def stale_acks(self) -> int:
        """How many acks and releases came for an epoch that was over."""
        return self._writer.stale_acks

    async def close(self, deadline: float) -> None:
        """Store pending acks, give back what is unsettled, close the file."""
        if self._closed or self._loop is None:
            self._closed = True
            return
        self._closed = True
        self._writer.commands.put(Close(time.monotonic() + deadline))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), deadline)

    def post(self, calls: list[Call]) -> None:
        """For the writer, in its thread: have these called on the loop's."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop was closed before the Link
            self._loop.call_soon_threadsafe(self._call_all, calls)

    def changed(self, state: LinkState) -> None:
        """For the writer: the state is another."""
        self.state = state
        self._sink.link_changed(state)

    def ended(self) -> None:
        """For the writer: it is done."""
        self._ended.set()

    def lost(self, reason: str) -> None:
        """For the writer: publications of this era are not answered any more."""
        self._era += 1
        self._sink.publishes_lost(reason)

    def _call_all(self, calls: list[Call]) -> None:
        for call in calls:
            try:
                call()
            except Exception as error:  # noqa: BLE001 - one that fails must not take its neighbours with it
                assert self._loop is not None
                self._loop.call_exception_handler(
                    {"message": "error in the embedded broker's link", "exception": error}
                )
