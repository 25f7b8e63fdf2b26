"""`mqworker receive`: takes messages out of a queue, by way of the running service, and prints them.

A message is removed from its queue once it is written to stdout: the next request names those that are. So if this ends
in between, or the broker dies before it has stored that, they are printed again the next time, and none is lost.
"""

import base64
import contextlib
import json
import sys
import time
from typing import Any

import click

from mqworker.address import CallError
from mqworker.cli import output
from mqworker.cli.options import ServiceClient, Verb, uses_service

TIMEOUT = 30.0  # seconds; the service queries the broker
BATCH = 100  # messages in one request
LOOK = 0.5  # seconds between looks into an empty queue


@click.command(cls=Verb)
@click.argument("queue", required=False)
@click.option("--count", "-n", type=click.IntRange(1), metavar="N", help="At most N; with --follow, exactly N.")
@click.option("--follow", "-f", is_flag=True, help="Keep waiting for more until Ctrl-C.")
@uses_service(TIMEOUT)
def receive(service: ServiceClient, queue: str | None, count: int | None, follow: bool) -> None:
    """Take the messages out of QUEUE and print one a line, as `mqworker send` reads them; by default the results.

    Without QUEUE it is the output queue of the stage, or of the last one of the line. Messages that are JSON or text
    are printed as they are, others in base64; with --json, properties and headers too. Each is removed once it is
    written, to a file or into a pipe, whatever the other end makes of it. Whoever is killed meanwhile gets some of them
    again, as does everybody when the broker dies before it has stored that they are removed.

    Examples:
      mqworker receive
      mqworker receive -n 1 --json
      mqworker receive --follow > results.jsonl
      mqworker receive old.results > old.jsonl && mqworker send --stage energy < old.jsonl
    """
    if queue is not None:
        _tell_of_dead_letters(service, queue)
    receiving = _Receiving(service, queue if queue is not None else _output(service))
    try:
        receiving.run(count, follow=follow)
    except KeyboardInterrupt:
        receiving.end()
        if not follow:
            raise


def _output(service: ServiceClient) -> str:
    """Return the queue that has the results; raises UsageError unless there is exactly one that no stage takes from."""
    feeds = {place["name"]: place["feeds"] for place in service.status()["line"]}
    rows = service.client.get("/queues")["queues"]
    rows = [row for row in rows if row["role"] == "output" and service.stage in (None, row["stage"])]
    ends = sorted({row["name"] for row in rows if not feeds.get(row["stage"])})
    if len(ends) == 1:
        return str(ends[0])
    if ends:
        raise click.UsageError(f"There are several queues with results ({', '.join(ends)}); name one, or a --stage.")
    if rows:
        takers = sorted({taker for row in rows for taker in feeds[row["stage"]]})
        raise click.UsageError(f"The results of these stages go to other stages ({', '.join(takers)}); name a QUEUE.")
    service.must_have_stage(service.stage)
    raise click.UsageError("No output queue is configured; name a QUEUE. `mqworker queues list` shows what there is.")


def _tell_of_dead_letters(service: ServiceClient, queue: str) -> None:
    """Warn, before any message is taken, if this is the dead-letter queue of a stage."""
    rows: list[dict[str, Any]] = []
    with contextlib.suppress(CallError):  # another queue may not answer; reading this one reports its own problems
        rows = service.client.get("/queues")["queues"]
    for row in rows:
        if (row["name"], row["role"]) == (queue, "dead"):
            what = f"{queue} holds the dead letters of stage {row['stage']}: what is printed is removed from it"
            output.note(output.clean(f"{what} (`mqworker dlq list` only looks, `mqworker dlq replay` sends again)"))


class _Receiving:
    """Takes batch after batch, and counts."""

    def __init__(self, service: ServiceClient, queue: str) -> None:
        self.done = 0
        self._service = service
        self._queue = queue
        self._written: list[str] = []  # ids of messages that are to be removed
        self._noted: set[str] = set()  # types that are printed in base64
        self._progress = output.Progress()

    def run(self, count: int | None, *, follow: bool) -> None:
        while count is None or self.done < count:
            messages = self._ask(BATCH if count is None else min(BATCH, count - self.done))
            self._write(messages)
            if not messages and not follow:
                break
            if not messages:
                time.sleep(LOOK)
            elif not sys.stdout.isatty():
                self._progress.update(f"{self.done} received")
        self.end()

    def end(self) -> None:
        """Have what was written removed, and report how many there were."""
        if self._written:
            self._ask(0)
        self._progress.done()
        output.note(f"{self.done} received from {output.clean(self._queue)}")

    def _ask(self, limit: int) -> list[dict[str, Any]]:
        """Have what was written removed, once: equal messages have the same id; return the next ones."""
        request = {"name": self._queue, "limit": limit, "taken": self._written}
        self._written = []
        messages: list[dict[str, Any]] = self._service.client.call("POST", "/queues/receive", request)["messages"]
        return messages

    def _write(self, messages: list[dict[str, Any]]) -> None:
        stdout = sys.stdout.buffer
        for message in messages:
            line = json.dumps(message, ensure_ascii=False) if self._service.as_json else self._line(message)
            stdout.write((output.clean(line) if sys.stdout.isatty() else line).encode() + b"\n")
        stdout.flush()  # raises if the reader has gone: then they stay in the queue
        self._written = [message["id"] for message in messages]
        self.done += len(messages)

    def _line(self, message: dict[str, Any]) -> str:
        """Return a body as one line: JSON and text as they are, anything else in base64."""
        kind = message["content_type"] or "no content type"
        line = _readable(base64.b64decode(message["body_base64"]), plain=kind.startswith("text/"))
        if line is not None:
            return line
        if kind not in self._noted:
            self._noted.add(kind)
            output.note(output.clean(f"in base64: {kind}"))
        return str(message["body_base64"])


def _readable(body: bytes, *, plain: bool) -> str | None:
    """Return text, or JSON, as one line; None if it is neither, or is text of several lines."""
    try:
        text = body.decode()
        value = None if plain else json.loads(text)
    except (ValueError, RecursionError):
        return None
    if "\n" not in text and "\r" not in text:
        return text
    return None if plain else _as_one_line(value)


def _as_one_line(value: Any) -> str | None:
    """Return JSON as one line; None for a number that is too large for it."""
    try:
        line = json.dumps(value, ensure_ascii=False, allow_nan=False)
        line.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return json.dumps(value)
    except ValueError:
        return None
    return line
