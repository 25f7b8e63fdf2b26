"""`FileLink`: the Link of a stage whose messages are the lines of a file.

Runs on the asyncio loop of `mqworker map`. Owns the deliveries that are not acknowledged. Each line is a message whose
id is the number of the line. A publication counts as confirmed once it is in memory: the input is a file, so an
acknowledgement destroys nothing, and a run that was killed goes on after the last stored line. `outcomes` decides what
a publication means for its line: results and dead letters go to the window; a retry delivers the same line again, after
its delay. Calls `moved` when the window may need a batch or be done, and `failed` for each dead letter.

Its size is that of the interface: ten of its methods are a Link's.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from mqworker.brokers.base import Delivery, LinkState, Publication, Sink, Topology
from mqworker.brokers.files.outcomes import LineOutcomes
from mqworker.brokers.files.window import Line, Window

EPOCH = 1
_WITH_ID = b"\x00\x80"  # flags of properties that are a message id and nothing else
_BOM = b"\xef\xbb\xbf"


class FileLink:
    """Implements `mqworker.brokers.base.Link`. `most`: bytes of a line; `begun`: where an earlier run may be."""

    def __init__(
        self,
        window: Window,
        topology: Topology,
        sink: Sink,
        *,
        most: int,
        begun: int,
        moved: Callable[[], None],
        failed: Callable[[int, str], None],
    ) -> None:
        self.state = LinkState()
        self._input = topology.input
        self._window = window
        self._outcomes = LineOutcomes(window, topology, failed)
        self._sink = sink
        self._most = most
        self._begun = begun
        self._moved = moved
        self._loop = asyncio.get_running_loop()
        self._prefetch = 0
        self._tag = 0
        self._out: OrderedDict[int, Line] = OrderedDict()  # by the tag of the delivery
        self._pumps = False  # `_pump` is scheduled
        self._stored: list[int] = []  # publications to confirm

    def start(self) -> None:
        """See `Link.start`."""
        self.state = LinkState(connected=True, reason="")
        self._loop.call_soon(self._sink.link_changed, self.state)

    def consume(self, prefetch: int, fixed: int = 0) -> None:  # noqa: ARG002 - a change reorders nothing
        """See `Link.consume`."""
        self._prefetch = prefetch
        self.state = replace(self.state, consuming=prefetch > 0)
        self.pump()

    def end_epoch(self) -> None:
        """See `Link.end_epoch`; only ordered stages ask for that."""

    def ack(self, epoch: int, tag: int, *, multiple: bool) -> None:  # noqa: ARG002 - there is one epoch
        """See `Link.ack`."""
        while multiple and self._out and next(iter(self._out)) <= tag:
            self._settle(*self._out.popitem(last=False))
        if not multiple and tag in self._out:
            self._settle(tag, self._out.pop(tag))
        self.pump()

    def release(self, epoch: int, tags: Sequence[int]) -> None:  # noqa: ARG002 - as above
        """See `Link.release`."""
        for tag in tags:
            line = self._out.pop(tag)
            line.tag = 0
            self._window.back(line)
        self.pump()

    def publish(self, publish_id: int, publication: Publication) -> None:
        """See `Link.publish`."""
        self.publish_together((publish_id,), (publication,))

    def publish_together(self, publish_ids: Sequence[int], publications: Sequence[Publication]) -> None:
        """See `Link.publish_together`."""
        for publication in publications:
            line = self._out.get(publication.settles[1]) if publication.settles is not None else None
            if line is not None and self._outcomes.take(line, publication):
                self._loop.call_later(publication.delay, self._again, line)
        if not self._stored:
            self._loop.call_soon(self._confirm)
        self._stored += publish_ids

    def depth(self) -> int | None:
        """See `Link.depth`; unknown before the end of the input has been read."""
        return 0 if self._window.done else None

    def others(self) -> int | None:
        """See `Link.others`: of no interest here, because retries are in the same file, and are not late."""
        return None

    def ask_output_depth(self) -> None:
        """See `Link.ask_output_depth`; this output has no limit."""

    def ask_dead_depth(self) -> None:
        """See `Link.ask_dead_depth`; letters go to a file."""

    async def close(self, deadline: float) -> None:
        """See `Link.close`."""

    def pump(self) -> None:
        """Deliver the available lines soon: after all events that are waiting now."""
        if not self._pumps:
            self._pumps = True
            self._loop.call_soon(self._pump)

    # --- inside

    def _pump(self) -> None:
        self._pumps = False
        while len(self._out) < self._prefetch and (line := self._window.take()) is not None:
            if line.length > self._most:
                self._outcomes.too_long(line, self._most)
            else:
                self._deliver(line)
        self._moved()

    def _deliver(self, line: Line) -> None:
        self._tag += 1
        line.tag = self._tag
        self._out[self._tag] = line
        if not line.properties:
            number = str(line.number).encode()
            line.properties = _WITH_ID + len(number).to_bytes() + number
        body = line.body.removesuffix(b"\r")
        if line.number == 1:
            body = body.removeprefix(_BOM)
        again = line.number <= self._begun
        self._sink.delivered(Delivery(EPOCH, self._tag, line.properties, body, again, "", self._input))

    def _again(self, line: Line) -> None:
        self._window.back(line)
        self.pump()

    def _settle(self, tag: int, line: Line) -> None:
        if line.tag == tag:  # otherwise it will be computed again
            self._window.settle(line)

    def _confirm(self) -> None:
        stored, self._stored = self._stored, []
        self._sink.confirmed(stored)
