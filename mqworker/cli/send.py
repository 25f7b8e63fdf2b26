"""`mqworker send`: sends messages from the command line or stdin to a stage, by way of the running service."""

import contextlib
import json
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from typing import Any

import click

from mqworker.address import CallError
from mqworker.cli import output
from mqworker.cli.again import until_begun
from mqworker.cli.bulk import JSON, must_be_json, send_lines
from mqworker.cli.options import Failed, ServiceClient, Verb, stage_path, uses_service
from mqworker.client import API, Client
from mqworker.exits import Exit

WAIT_MAX = 30.0  # seconds that the service waits for a result
LOOK = 0.25  # seconds between looks into the log while a result is waited for; no retry comes sooner than 1 s
LOOK_MAX = 2.0  # seconds that the last look may take when the result is there


@click.command(cls=Verb)
@click.argument("body", required=False)
@click.option("--count", "-n", type=click.IntRange(1, 100_000_000), default=1, help="Send BODY this many times.")
@click.option(
    "--rate", "-r", type=click.FloatRange(0, min_open=True), metavar="N", help="At most N messages per second."
)
@click.option("--content-type", default=JSON, show_default=True, metavar="TYPE", help="Content type of the bodies.")
@click.option(
    "--header", "-H", "headers", multiple=True, metavar="NAME=VALUE", help="A header of the messages; may be repeated."
)
@click.option("--wait", "-w", is_flag=True, help=f"Wait for each result and print it; at most {WAIT_MAX:g} s each.")
@uses_service(WAIT_MAX)
def send(
    service: ServiceClient,
    body: str | None,
    count: int,
    rate: float | None,
    content_type: str,
    headers: tuple[str, ...],
    wait: bool,
) -> None:
    """Send BODY to a stage, or each line of stdin (JSON Lines). A message counts as sent once the broker has it.

    Lines are sent in batches; each is confirmed on its own, and refused ones are named. If the content type is neither
    JSON nor text, all of stdin is one message, unchanged.

    With --wait, results go to stdout; their duration, message id and failed attempts go to stderr.

    The value of a header is text. What mqworker or a broker sets (x-mqworker-..., x-death) is refused.

    Examples:
      mqworker send '{"n": 1000000}' --wait
      mqworker send '{"n": 7}' --count 1000 --rate 50
      mqworker send --stage energy < requests.jsonl
      mqworker send --header camera=entrance < frames.jsonl
      mqworker send --content-type application/msgpack < frame.msgpack
      printf 'plain words' | xargs -0 mqworker send --content-type text/plain
    """
    if body is None and (count > 1 or sys.stdin.isatty()):
        raise click.UsageError("--count needs a BODY." if count > 1 else "Give a BODY, or lines on stdin.")
    if body is not None and content_type == JSON:
        must_be_json(body.encode(), "BODY")
    more = _request_headers(headers)
    stage = service.one_stage()
    lines = body is None and not _is_binary(content_type)
    if lines and not wait:
        send_lines(service, stage, content_type, more, rate)
        return
    sending = _Sending(service, stage, content_type, more, wait=wait)
    try:
        if lines:
            sending.all(_lines(content_type), rate, 0)
        else:
            whole = sys.stdin.buffer.read() if body is None else body.encode("utf-8", "surrogateescape")
            sending.all(repeat(("", whole), count), rate, count)
    except KeyboardInterrupt:
        sending.report("interrupted: ")
        raise
    except (CallError, Failed) as error:
        if sending.total != 1:
            sending.report("stopped: ")
        raise Failed(error.code, f"{sending.line}{error}") from None
    if sending.total != 1 or not wait:
        sending.report("")


class _Sending:
    """Sends one body after another and counts them."""

    def __init__(
        self, service: ServiceClient, stage: str, content_type: str, headers: dict[str, str], *, wait: bool
    ) -> None:
        self.sent = 0
        self.total = 0  # 0: unknown
        self.line = ""  # the line of stdin that is being sent, as the beginning of a sentence about it
        self.progress = output.Progress()
        self._service = service
        self._stage = stage
        self._content_type = content_type
        self._headers = headers
        self._wait = min(WAIT_MAX, service.timeout) if wait else 0.0
        self._began = time.monotonic()
        self._last: dict[str, Any] = {}

    def all(self, bodies: Iterator[tuple[str, bytes]], rate: float | None, total: int) -> None:
        self.total = total
        for line, body in bodies:
            if rate:
                time.sleep(max(0.0, self._began + self.sent / rate - time.monotonic()))
            self.line = line
            self._one(body)
            self.line = ""
            self.progress.update(f"{self.sent} sent, {self._speed():.0f} per second")

    def _note(self, text: str) -> None:
        self.progress.done()
        output.note(output.clean(text))

    def _one(self, body: bytes) -> None:
        path = API + stage_path(self._stage, f"/messages?wait={self._wait:g}" if self._wait else "/messages")
        message_id = str(uuid.uuid4())
        attempts = (
            _Attempts(self._service, self._stage, message_id, self._note) if self._wait else contextlib.nullcontext()
        )
        try:
            with attempts:
                headers, timeout = {"X-Message-Id": message_id} | self._headers, self._service.timeout
                request = self._service.client.request
                ask = partial(request, "POST", path, body, self._content_type, timeout + 5.0, headers)
                answer = until_begun(ask, timeout, self._tell, time.sleep)
        except CallError as error:
            if reason := error.problem.get("reason"):
                kind = f"{error.problem['error_type']}: " if error.problem.get("error_type") else ""
                self.sent += 1
                text = f"the message is dead ({reason}): {kind}{error}; `mqworker dlq list` shows it"
                raise Failed(Exit.INTERNAL, output.clean(text)) from None
            if error.problem.get("message_id"):
                self.sent += 1
            raise
        self.sent += 1
        self._last = answer.json()
        if self._wait:
            self._result(self._last)
        elif self._service.as_json:
            output.data(self._last)

    def _tell(self, why: str) -> None:
        self.progress.update(output.clean(f"{self.sent} sent; {why}"), now=True)

    def _result(self, answer: dict[str, Any]) -> None:
        if self._service.as_json:
            output.data(answer)
            return
        self.progress.done()
        if answer["outcome"] != "result":
            output.note("done, without a result: its handler gave none")
        else:
            for each in answer.get("results", [answer]):
                click.echo(_text(each))
                if "result" not in each:
                    output.note(output.clean(f"in base64: {each['content_type']}"))
        computed = f", computed in {output.seconds(answer['duration_ms'] / 1000)}" if answer.get("duration_ms") else ""
        output.note(f"after {output.seconds(answer['waited_ms'] / 1000)}{computed}; message id {answer['message_id']}")

    def _speed(self) -> float:
        return self.sent / max(1e-9, time.monotonic() - self._began)

    def report(self, prefix: str) -> None:
        """Print how many were sent."""
        self.progress.done()
        if self.sent == 1 and not prefix and self._last:
            output.note(f"sent; message id {self._last['message_id']}")
            return
        took = output.seconds(time.monotonic() - self._began)
        of = f" of {self.total}" if self.total > self.sent else ""
        output.note(f"{prefix}{self.sent}{of} sent in {took} ({self._speed():.0f} per second)")


def _text(result: dict[str, Any]) -> str:
    if "result" not in result:
        return str(result["result_base64"])
    value = result["result"]
    return value if isinstance(value, str) and result["content_type"] != JSON else json.dumps(value)


class _Attempts:
    """Tells on stderr, while a result is waited for, which attempts have failed: a thread that looks into the log.

    A result that comes soon costs no look. What is retried by another service on the same queue is not in this log.
    """

    def __init__(self, service: ServiceClient, stage: str, message_id: str, note: Callable[[str], None]) -> None:
        self._client = Client(service.client.address, service.client.timeout)
        self._path = f"/logs?message={message_id}&event=retried&lines=2000"
        self._wanted = {"event": "retried", "stage": stage, "message_id": message_id}.items()
        self._note = note
        self._noted: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: object, *_: object) -> None:
        self._over.set()
        if kind is not KeyboardInterrupt:
            self._thread.join(LOOK_MAX)

    def _run(self) -> None:
        over = self._over.wait(LOOK)
        with self._client, contextlib.suppress(CallError):  # whoever waits for the result hears of it
            while not over:
                over = self._over.wait(LOOK)
                self._look()  # also once more when it is over

    def _look(self) -> None:
        for record in self._client.get(self._path)["lines"]:
            which = json.dumps(record)
            if self._wanted <= record.items() and which not in self._noted:  # an older service reports on all messages
                self._noted.add(which)
                self._note(f"attempt {record.get('attempt')} failed: {record.get('msg')}")


def _is_binary(content_type: str) -> bool:
    from mqworker.jobs.content_types import is_binary

    return bool(content_type.strip()) and is_binary(content_type)


def _request_headers(headers: tuple[str, ...]) -> dict[str, str]:
    """Return the header of a request that gives its messages these, if there are any."""
    table: dict[str, str] = {}
    for header in headers:
        name, equals, value = header.partition("=")
        if not name or not equals:
            raise click.UsageError(f"--header {output.clean(header)}: write NAME=VALUE.")
        if name in table:
            raise click.UsageError(f"--header {output.clean(name)} is given twice.")
        table[name] = value
    return {"X-Message-Headers": json.dumps(table)} if table else {}


def _lines(content_type: str) -> Iterator[tuple[str, bytes]]:
    """Yield each line of stdin that is not empty, and how a sentence about it begins.

    Raises `Failed` at a line that is not JSON, before it is sent.
    """
    for number, line in enumerate(sys.stdin.buffer, 1):
        body = line.rstrip(b"\r\n")
        if not body.strip():
            continue
        if content_type == JSON:
            must_be_json(body, f"line {number}")
        yield f"line {number}: ", body
