"""Several publications of one message, each of which is sent once the one before is confirmed.

Lives in the Link of an ordered stage, between its publishing side and the Sink. Otherwise the second of three could be
refused (its queue is full) while the third is stored, and would come after it when it is published again. Owns the
publications that have not been sent; after a refused one, and when the channel ends, they are refused too.
"""

from collections.abc import Callable, Sequence

from mqworker.brokers.base import Publication, PublishAnswers

Part = tuple[int, Publication]


class PartsInTurn:
    """See the module head; it takes the answers to all publications, and passes them on."""

    def __init__(self, sink: PublishAnswers) -> None:
        self.publish: Callable[[int, Publication], None] = lambda *_: None  # how to publish one
        self._sink = sink
        self._behind: dict[int, list[Part]] = {}  # publish_id of what has been sent -> what follows, the last one first

    def begin(self, publish_ids: Sequence[int], publications: Sequence[Publication]) -> None:
        """Publish the first of these now, and each other one in its turn."""
        self._next(list(zip(publish_ids, publications, strict=True))[::-1])

    def confirmed(self, publish_ids: Sequence[int]) -> None:
        """See `Sink.confirmed`."""
        self._sink.confirmed(publish_ids)
        if self._behind:
            for publish_id in publish_ids:
                self._next(self._behind.pop(publish_id, []))

    def refused(self, publish_id: int, reason: str, *, too_large: bool = False) -> None:
        """See `Sink.refused`."""
        behind = self._behind.pop(publish_id, [])
        self._sink.refused(publish_id, reason, too_large=too_large)
        self._refuse(behind, reason)

    def publishes_lost(self, reason: str) -> None:
        """See `Sink.publishes_lost`."""
        waiting, self._behind = self._behind, {}
        for behind in waiting.values():
            self._refuse(behind, reason)
        self._sink.publishes_lost(reason)

    def _next(self, parts: list[Part]) -> None:
        if parts:
            publish_id, publication = parts.pop()
            self._behind[publish_id] = parts
            self.publish(publish_id, publication)

    def _refuse(self, behind: list[Part], reason: str) -> None:
        for publish_id, _ in reversed(behind):
            self._sink.refused(publish_id, f"not sent, because the one before it was not stored: {reason}")
