"""The lines of stdin, each a message, sent in batches: what `mqworker send` does unless it waits for results.

Runs in the user's process. The main thread reads and checks lines; a batch is one request, in a thread of its own, and
the lines that come meanwhile make the next one. So a file goes in large batches, and the lines of `tail -f` go as they
come. The service confirms each line; what it refuses, or what is not JSON, is named, and ends the sending: all lines
before it are sent, none after its batch. A batch that the service does not begin, because the broker confirms nothing,
is sent again for a while. Ctrl-C waits a little for the answer to the batch under way. The report says how many are
confirmed, and how many more may be at the broker because their answer did not come.
"""

import contextlib
import json
import os
import select
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NoReturn

from mqworker.address import CallError
from mqworker.cli import output
from mqworker.cli.again import until_begun
from mqworker.cli.options import Failed, ServiceClient, stage_path
from mqworker.client import API
from mqworker.exits import Exit

LINES = 1000  # in a batch, at most
BYTES = 512 << 10  # bytes in a batch, unless one line has more
BLOCK = 1 << 18  # bytes that are read at once
LOOK = 0.05  # seconds without a line after which it checks for the answer to the batch under way
TURN = 0.1  # seconds that a batch may take with --rate
PATIENCE = 2.0  # seconds that Ctrl-C waits for the answer to the batch under way
JSON = "application/json"


def send_lines(
    service: ServiceClient, stage: str, content_type: str, headers: dict[str, str], rate: float | None
) -> None:
    """Send each line of stdin that is not blank; raises what ends it, after a report of how many were sent.

    `headers` are those of the request that give each message its own.
    """
    sending = _Bulk(service, stage, content_type, headers, rate)
    try:
        sending.all()
    except KeyboardInterrupt:
        try:
            sending.last_answer()
        finally:  # also if it is pressed again
            sending.report("interrupted: ")
        raise
    except (CallError, Failed):
        sending.report("stopped: ")
        raise
    sending.report("")


def must_be_json(body: bytes, what: str) -> None:
    """Raise `Failed` if a body is not JSON."""
    try:
        json.loads(body)
    except (ValueError, RecursionError) as error:
        text = f"{what} is not JSON ({error}) and was not sent. For other bodies: --content-type text/plain"
        raise Failed(Exit.USAGE, output.clean(text)) from None


class _Batch(threading.Thread):
    """The request for one batch of lines, and its answer; `ask` gets what waits until it may ask again."""

    def __init__(self, ask: Callable[[Callable[[float], bool]], Any], first: int, last: int, messages: int) -> None:
        super().__init__(daemon=True)
        self.first, self.last, self.messages = first, last, messages
        self.answer: dict[str, Any] = {}
        self.error: Exception | None = None
        self.over = threading.Event()  # joining is not for whoever may be interrupted meanwhile (bpo-45274)
        self.given_up = threading.Event()  # it is not to be sent again
        self._ask = ask

    def run(self) -> None:
        """Make the request."""
        try:
            self.answer = self._ask(self.given_up.wait)
        except Exception as error:  # noqa: BLE001 - the main thread raises it
            self.error = error
        self.over.set()


class _Bulk:
    """Gathers lines, sends them, and counts what is confirmed."""

    def __init__(
        self, service: ServiceClient, stage: str, content_type: str, headers: dict[str, str], rate: float | None
    ) -> None:
        self._service = service
        self._headers = headers
        self._path = API + stage_path(stage, "/messages?each=line")
        self._content_type = content_type
        self._rate = rate
        self._most = min(LINES, max(1, int(rate * TURN))) if rate else LINES
        self._run = str(uuid.uuid4())  # the id of line N is this, a dot and N
        self._lines: list[bytes] = []  # read, and in no batch yet
        self._size = 0  # bytes of them
        self._read = 0  # lines read, also blank ones
        self._under_way: _Batch | None = None
        self._unanswered: _Batch | None = None  # may be at the broker or not
        self._sent = 0
        self._began = time.monotonic()
        self._progress = output.Progress()

    def all(self) -> None:
        """Send every line; raises Failed or CallError with what ends it."""
        for lines in _stdin():
            for line in lines:
                self._add(line)
            if (self._under_way is None or self._under_way.over.is_set()) and not _more(0.0):
                self._send()
        self._send()
        self._settle()

    def last_answer(self) -> None:
        """Wait a little for the answer to the batch under way; what it refuses is not counted."""
        if self._under_way is not None:
            self._unanswered = self._under_way  # also if the wait is interrupted
            self._under_way.given_up.set()
            if self._under_way.over.wait(PATIENCE):
                self._unanswered = None
                with contextlib.suppress(CallError, Failed):
                    self._settle()

    def report(self, prefix: str) -> None:
        """Print how many were sent."""
        self._progress.done()
        took, lost = output.seconds(time.monotonic() - self._began), self._unanswered
        ids = f"; the id of line N is {self._run}.N" if self._sent or lost else ""
        output.note(f"{prefix}{self._sent} sent in {took} ({self._speed():.0f} per second){ids}")
        if lost is not None:
            which = f"line {lost.first}" if lost.first == lost.last else f"lines {lost.first} to {lost.last}"
            output.note(f"{lost.messages} more may have been sent, because no answer came: {which}")

    def _add(self, line: bytes) -> None:
        if len(self._lines) >= self._most or self._size + len(line) > BYTES:
            self._send()
        if self._content_type == JSON and line.strip():
            try:
                must_be_json(line, f"line {self._read + 1}")
            except Failed:
                self._send()
                self._settle()
                raise
        self._read += 1
        self._size += len(line) + 1
        self._lines.append(line)

    def _send(self) -> None:
        """Make a batch of the lines that were gathered, once the one before has its answer."""
        self._settle()
        lines, self._lines, self._size = self._lines, [], 0
        messages = sum(1 for line in lines if line.strip())
        if not messages:
            return
        if self._rate:
            time.sleep(max(0.0, self._began + self._sent / self._rate - time.monotonic()))
        first = self._read - len(lines) + 1
        ask = partial(self._ask, f"{self._path}&first={first}", b"\n".join(lines))
        self._under_way = _Batch(ask, first, self._read, messages)
        self._under_way.start()

    def _ask(self, path: str, body: bytes, wait: Callable[[float], bool]) -> Any:
        """Make the request for a batch; meanwhile the main thread shows no progress."""
        headers, timeout = {"X-Message-Id": self._run} | self._headers, self._service.timeout
        request = self._service.client.request
        ask = partial(request, "POST", path, body, self._content_type, timeout + 5.0, headers)
        return until_begun(ask, timeout, self._tell, wait).json()

    def _tell(self, why: str) -> None:
        self._progress.update(output.clean(f"{self._sent} sent; {why}"), now=True)

    def _settle(self) -> None:
        """Wait for the answer to the batch under way, and count; raises what was refused."""
        if self._under_way is None:
            return
        self._under_way.over.wait()
        batch, self._under_way = self._under_way, None
        if batch.error is not None:
            self._fail(batch, batch.error)
        self._sent += batch.answer["confirmed"]
        if self._service.as_json:
            output.data(batch.answer)
        if refused := batch.answer["refused"]:
            which = _ranges([each["line"] for each in refused])
            raise Failed(Exit.USAGE, output.clean(f"{which} not sent: {refused[0]['reason']}"))
        self._progress.update(f"{self._sent} sent, {self._speed():.0f} per second")

    def _fail(self, batch: _Batch, error: Exception) -> NoReturn:
        """Raise what a request came to, and note whether its lines may be at the broker."""
        if isinstance(error, CallError):
            fields = error.problem.get("fields") or ()
            if error.status == 422 and any(field.get("field") == "each" for field in fields):
                text = "the service is older than this command and takes no lines: restart it"
                raise Failed(Exit.USAGE, text)
            asked = error.status == 409 or not 400 <= error.status < 500  # 409: perhaps in the middle of the batch
            if asked and error.code != Exit.NOT_RUNNING and not error.not_begun:
                self._unanswered = batch
            if error.status == 413 or error.not_begun:  # 413: a line that is larger than a batch goes alone
                which = _ranges(range(batch.first, batch.last + 1))
                raise Failed(error.code, output.clean(f"{which} not sent: {error}")) from None
        raise error

    def _speed(self) -> float:
        return self._sent / max(1e-9, time.monotonic() - self._began)


def _more(seconds: float) -> bool:
    """Wait so long for more on stdin, or for its end; returns whether it came."""
    return bool(select.select([sys.stdin.fileno()], [], [], seconds)[0])


def _stdin() -> Iterator[list[bytes]]:
    """Yield the lines of stdin as they come, without their ends; an empty list whenever none came for a moment."""
    parts = [b""]
    while True:
        if not _more(LOOK):
            yield []
            continue
        block = os.read(sys.stdin.fileno(), BLOCK)
        if not block:
            if last := b"".join(parts):
                yield [last]
            return
        end, *more = block.split(b"\n")
        parts.append(end)
        if more:
            yield [b"".join(parts), *more[:-1]]
            parts = [more[-1]]


def _ranges(numbers: Iterable[int]) -> str:
    """Return which lines these are, with their verb: "line 7 was", "lines 2, 4 to 9 were"."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    lines = ", ".join(" to ".join(map(str, each)) for each in ranges)
    return f"line {lines} was" if len(ranges) == len(ranges[0]) == 1 else f"lines {lines} were"
