"""Dead letters that are sent back at a rate, a few with each request, so that the others stay visible meanwhile.

Runs in the user's process, for `mqworker dlq replay --rate`. Ctrl-C, or a request that fails, ends it; what has gone
back by then is reported.
"""

import time
from collections import Counter
from collections.abc import Iterator

from mqworker.cli import output
from mqworker.cli.options import ServiceClient, stage_path

BATCH = 200  # dead letters in one request


def report_replay(service: ServiceClient, done: int, how: str, rest: str) -> None:
    """Tell how many go back; `rest`: a remark on those that do not."""
    if service.as_json:
        output.data({"replayed": done})
    else:
        output.note(f"{done} {how} back to the input{rest}")


class Paced:
    """See the module head."""

    def __init__(self, service: ServiceClient, stage: str, ids: list[str], rest: str) -> None:
        """`ids`: of each of them, the oldest first; equal ones have the same id."""
        self._service = service
        self._path = stage_path(stage, "/dlq/replay")
        self._ids = ids
        self._rest = rest
        self._progress = output.Progress()

    def run(self, rate: float) -> None:
        """Send all of them, `rate` in a second."""
        size = min(BATCH, max(1, int(rate / 4)))  # a few batches per second
        began, done = time.monotonic(), 0
        try:
            asked = 0
            for ids, count in batches(self._ids, size):
                time.sleep(max(0.0, began + asked / rate - time.monotonic()))
                asked += count
                request = {"ids": ids, "limit": count}
                done += self._service.client.call("POST", self._path, request)["replayed"]
                self._progress.update(f"{done} of {len(self._ids)} sent back")
        finally:
            self._progress.done()
            report_replay(self._service, done, "sent", self._rest)


def batches(ids: list[str], size: int) -> Iterator[tuple[list[str], int]]:
    """Divide letters into requests of about `size`: ids, and how many letters have them.

    Equal letters have the same id, and a request takes whichever come first: so no other is beside some of them.
    """
    batch: list[str] = []
    count = 0
    for letter, equal in Counter(ids).items():
        if batch and count + equal > size:
            yield batch, count
            batch, count = [], 0
        while equal > size:
            yield [letter], size
            equal -= size  # noqa: PLW2901 - what is left of them
        batch.append(letter)
        count += equal
    if batch:
        yield batch, count
