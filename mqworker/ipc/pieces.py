"""Large results on their way up: taken out of their outcomes, sent in pieces before these, put back by the Producer.

Pure; `cut` serves Consumers, `Pieces` a lane. So the Producer never copies a large body as a whole, which would block
its loop and take the memory once more: each piece is a small frame, and goes straight to its place. The outcome follows
its pieces at once, before any other outcome, so they need no names.
"""

from collections.abc import Iterator
from io import BytesIO

import msgspec

from mqworker.ipc.messages import LARGE, Outcome, Outcomes, Piece, ResultMessage


def take_out(outcome: Outcome) -> tuple[Outcome, list[bytes]]:
    """Return the outcome without its large bodies, and these."""
    bodies = [result.body for result in outcome.results if result.body is not None and len(result.body) > LARGE]
    if not bodies:
        return outcome, bodies
    results = tuple(_without(result) for result in outcome.results)
    return msgspec.structs.replace(outcome, results=results), bodies


def _without(result: ResultMessage) -> ResultMessage:
    large = result.body is not None and len(result.body) > LARGE
    return msgspec.structs.replace(result, body=b"", in_pieces=len(result.body or b"")) if large else result


def cut(body: bytes) -> Iterator[Piece]:
    """Yield the pieces of a body, in order."""
    for start in range(0, len(body), LARGE):
        yield Piece(body[start : start + LARGE], last=start + LARGE >= len(body))


class Pieces:
    """The pieces that have arrived, until their outcome takes them."""

    def __init__(self) -> None:
        self._whole: list[bytes] = []
        self._begun = BytesIO()
        self._some = False

    def __bool__(self) -> bool:
        """Whether any has arrived since the last outcome."""
        return self._some

    def add(self, piece: Piece) -> None:
        """Append a piece to the body that it continues or begins."""
        self._some = True
        self._begun.write(piece.data)
        if piece.last:
            self._whole.append(self._begun.getvalue())  # shared with the BytesIO, not copied
            self._begun = BytesIO()

    def put_back(self, outcomes: Outcomes) -> Outcomes:
        """Return the outcomes with the bodies that came before them; ValueError if a piece is missing."""
        whole, begun, expected = iter(self._whole), self._begun.tell(), 0
        for outcome in outcomes.outcomes:
            for result in outcome.results:
                expected += result.in_pieces
        if begun or expected != sum(map(len, self._whole)):
            raise ValueError(f"{expected:,} bytes of large results were to come, and others came")
        self._whole, self._some = [], False
        finished = [
            msgspec.structs.replace(
                outcome,
                results=tuple(
                    msgspec.structs.replace(result, body=next(whole), in_pieces=0) if result.in_pieces else result
                    for result in outcome.results
                ),
            )
            for outcome in outcomes.outcomes
        ]
        return msgspec.structs.replace(outcomes, outcomes=finished)
