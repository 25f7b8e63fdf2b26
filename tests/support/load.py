"""Load with confirms, through faults of the broker's cluster or of its network: when each outcome came, and what for.

Runs in the test process on one blocking pika connection, for a stage whose handler returns `HANDLED` of its message.
Nothing here waits for a confirm, so results are seen when they come, also while a queue does not answer.
"""

import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple, Self, TypeVar

import pika

from tests.support.foreign import BLOCKED
from tests.support.waiting import wait_for

T = TypeVar("T")

# One message in 50 needs a second attempt, another one is a dead letter.
HANDLER = """\
import time

from mqworker import Reject


def handle(body, params, message):
    began = time.time()
    time.sleep(params["seconds"])
    match body["n"] % 50:
        case 7 if message.attempt == 1:
            raise ConnectionError("not yet")
        case 13:
            raise Reject("of no use")
    return {"id": message.message_id, "host": params["host"], "began": began}
"""
DEAD = 13  # of 50
GOES_ON = 90  # seconds


class Result(NamedTuple):
    """A result as it came."""

    arrived: float  # monotonic
    host: str  # that of `params`
    began: float  # epoch


class Load:
    """See the module head. The queues exist."""

    def __init__(self, url: str, queue: str) -> None:
        self.sent = 0
        self.results: dict[str, list[Result]] = defaultdict(list)  # by message id
        self.dead: set[str] = set()
        self.unconfirmed: dict[int, str] = {}  # by the number of the publication
        self.waiting: set[str] = set()  # what was sent and has no outcome yet
        self._came: list[Result] = []  # in the order of their arrival
        parameters = pika.URLParameters(url)
        parameters.heartbeat = 0
        parameters.blocked_connection_timeout = BLOCKED
        self._queue = queue
        self._connection = pika.BlockingConnection(parameters)
        out = self._connection.channel()
        out.basic_consume(f"{queue}.out", self._take)  # with acks: a leader that dies must not lose what it has sent
        out.basic_consume(f"{queue}.dlq", self._take_dead)
        self._in = self._connection.channel()._impl  # the blocking one waits for each confirm
        self._in.confirm_delivery(self._answered)

    def send(self, count: int) -> None:
        """Publish this many messages."""
        for n in range(self.sent, self.sent + count):
            told = pika.BasicProperties("application/json", message_id=str(n), delivery_mode=2)
            self.unconfirmed[n + 1] = str(n)
            self.waiting.add(str(n))
            self._in.basic_publish("", self._queue, json.dumps({"n": n}).encode(), told)
        self.sent += count

    def until(self, predicate: Callable[[], T], deadline: float, what: str, *, least: int = 0) -> T:
        """Like `wait_for`, while outcomes are taken, and at least so many messages wait for theirs."""

        def look() -> T:
            self._connection.process_data_events(0.01)
            if least and (missing := least - len(self.waiting)) > least / 4:
                self.send(missing)
            return predicate()

        return wait_for(look, deadline, what)

    def when(self, since: float, goes_on: dict[str, Callable[[], object]], *, least: int) -> dict[str, float]:
        """Wait until each of these is true, once; return after how many seconds, to a quarter of one, each was."""
        told: dict[str, float] = {}

        def look() -> bool:
            for what, predicate in goes_on.items():
                if what not in told and predicate():
                    told[what] = round(time.monotonic() - since, 2)
            return len(told) == len(goes_on)

        try:
            self.until(look, GOES_ON, "all that was waited for", least=least)
        except AssertionError as error:
            raise AssertionError(f"{error}: {', '.join(goes_on.keys() - told.keys())}; {told}") from None
        return told | {"the longest time without a result": self.pause(since)}

    def came(self, since: float, host: str = "") -> int:
        """Return how many results came after a moment (monotonic)."""
        later = itertools.takewhile(lambda result: result.arrived > since, reversed(self._came))
        return sum(host in ("", result.host) for result in later)

    def pause(self, since: float) -> float:
        """Return the longest time without a result since a moment (monotonic), in seconds."""
        times = [since, *(result.arrived for result in self._came if result.arrived > since)]
        return round(max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0), 2)

    def repeats(self) -> dict[str, list[Result]]:
        """Return the ids that have several results, with these."""
        return {message_id: results for message_id, results in self.results.items() if len(results) > 1}

    def finish(self, deadline: float) -> None:
        """Wait until all that was sent is confirmed and has the right outcome; raises AssertionError."""
        self.until(lambda: not self.unconfirmed, deadline, "the confirms")
        self.until(lambda: not self.waiting, deadline, "all outcomes")
        assert self.dead == {str(n) for n in range(self.sent) if n % 50 == DEAD}
        assert not self.dead & self.results.keys()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection.is_open:
            self._connection.close()

    def _take(self, channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        told = json.loads(body)
        assert properties.message_id == told["id"]
        result = Result(time.monotonic(), told["host"], told["began"])
        self._came.append(result)
        self.results[told["id"]].append(result)
        self.waiting.discard(told["id"])
        channel.basic_ack(method.delivery_tag)

    def _take_dead(self, channel: Any, method: Any, properties: pika.BasicProperties, _body: bytes) -> None:
        assert properties.message_id is not None
        self.dead.add(properties.message_id)
        self.waiting.discard(properties.message_id)
        channel.basic_ack(method.delivery_tag)

    def _answered(self, frame: Any) -> None:
        assert isinstance(frame.method, pika.spec.Basic.Ack), "the broker refused a message"
        if not frame.method.multiple:
            del self.unconfirmed[frame.method.delivery_tag]
            return
        while self.unconfirmed and (first := next(iter(self.unconfirmed))) <= frame.method.delivery_tag:
            del self.unconfirmed[first]
