"""One stage named `work` on the embedded broker: its configuration, and a client of its file that is not a service.

Runs in the test process. The client looks without taking: results stay in the output queue, so that a message that was
lost, doubled or computed with the wrong parameters shows at the end, whenever it happened.
"""

import asyncio
import http.client
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import Publication
from mqworker.brokers.sqlite import store
from mqworker.brokers.sqlite.admin import SqliteAdmin
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

INPUT, OUTPUT, DEAD = "in", "out", "in.dlq"
PAUSE = 0.003  # seconds of each message, unless a test says otherwise

HANDLER = f"""\
import time
from pathlib import Path

def handle(body, params):
    began = time.monotonic()
    while "until" in body and not Path(__file__).with_name(body["until"]).exists():
        time.sleep(0.01)
    time.sleep(body.get("seconds", {PAUSE}))
    return {{"n": body["n"], "began": began, "params": dict(params)}}
"""


def config(*lines: str, service: str = "", control: str = "port = 0", consumers: int = 2) -> str:
    """Return a configuration with further lines for the stage, for [service] and for [control]."""
    return (
        f'[service]\nlog_format = "json"\n{service}\n[control]\n{control}\n[stages.work]\ninput = "{INPUT}"\n'
        f'jobs = ["jobs:handle"]\noutput = {{ queue = "{OUTPUT}" }}\nconsumers = {consumers}\n'
        + "\n".join(lines)
        + "\n"
    )


class Result(NamedTuple):
    """A message in the output queue."""

    body: dict[str, Any]
    properties: Properties

    @property
    def generation(self) -> int:
        """Return the generation of code and parameters that its handler had."""
        return int(self.properties.headers["x-mqworker-generation"])


class Client:
    """See the module head; numbers its messages."""

    def __init__(self, service: ServiceProcess, file: str = ".mqworker/broker.db") -> None:
        self._runner = asyncio.Runner()
        self._admin = self._runner.run(_open(service.folder / file))
        self.sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._admin.close())
        self._runner.close()

    def send(self, count: int, **body: Any) -> range:
        """Store this many messages in one transaction; return their numbers."""
        numbers = range(self.sent, self.sent + count)
        self.sent += count
        self.store_all(self._message(json.dumps({"n": n} | body).encode(), str(n)) for n in numbers)
        return numbers

    def store_all(self, messages: Iterable[Publication]) -> None:
        """Store messages for the input in one transaction."""
        ready = list(messages)

        def work(db: sqlite3.Connection) -> None:
            store.make_queue(db, INPUT)
            for message in ready:
                store.publish(db, message)

        self._runner.run(self._admin._ask(work, 20))

    def send_raw(self, bodies: Iterable[bytes], first: int = 0) -> None:
        """Store bodies unchanged, with ids that count from `first`."""
        for number, body in enumerate(bodies, first):
            properties = self._message(body, f"raw-{number}").properties
            self._runner.run(self._admin.send(INPUT, properties, body, 20))

    @staticmethod
    def _message(body: bytes, message_id: str | None) -> Publication:
        block = Properties(content_type="application/json", delivery_mode=2, message_id=message_id).encode()
        return Publication("", INPUT, block, body)

    def ready(self, queue: str = INPUT) -> int:
        """Return how many messages wait in a queue."""
        info = self._runner.run(self._admin.queue(queue, 20))
        return info.messages if info else 0

    def results(self, queue: str = OUTPUT) -> list[Result]:
        """Return everything in a queue, leaving it there."""
        found = self._runner.run(self._admin.peek(queue, 1_000_000, 20))
        return [Result(json.loads(each.body), Properties.decode(each.properties)) for each in found]

    def finish(self, deadline: float = 60) -> list[Result]:
        """Wait until every message that was sent has exactly one result, and none is dead or left."""
        wait_for(lambda: self.ready(OUTPUT) + self.ready(DEAD) >= self.sent, deadline, "every message to have a result")
        assert self.ready(DEAD) == 0, self.results(DEAD)
        results = self.results()
        repeated = {n: times for n, times in Counter(result.body["n"] for result in results).items() if times > 1}
        assert not repeated
        assert sorted(result.body["n"] for result in results) == list(range(self.sent))
        assert self.ready() == 0
        return results


async def _open(path: Path) -> SqliteAdmin:
    return SqliteAdmin(path)


class Answer(NamedTuple):
    """The control API's answer over TCP."""

    status: int
    body: Any
    headers: http.client.HTTPMessage


def curl(port: int, method: str, path: str, data: bytes | None = None, timeout: float = 60, **headers: str) -> Answer:
    """Send one request over TCP as curl would; header names have `_` for `-`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, data, {"User-Agent": "curl/7.88.1", "Accept": "*/*"} | named)
        answer = connection.getresponse()
        text = answer.read()
        told = json.loads(text) if answer.headers.get_content_type().endswith("json") and text else text.decode()
        return Answer(answer.status, told, answer.headers)
    finally:
        connection.close()


def port(service: ServiceProcess) -> int:
    """Return the TCP port of the last start, which its log tells soon."""

    def started() -> str | None:
        starts = [event for event in service.events() if event["event"] in {"starting", "started"}]
        return starts[-1].get("url") if starts else None

    return int(wait_for(started, 20, "the service to tell its port").rpartition(":")[2])


def put(service: ServiceProcess, path: str, body: Any = None, method: str = "PUT") -> dict[str, Any]:
    """Change something of the stage, and wait until it is applied."""
    status, told = service.ask(method, f"/api/v1/stages/work/{path}?wait=30", body)
    assert (status, told.get("applied")) in {(200, True), (202, False)}, told
    if status == 202:  # on a slow machine it may take longer than a request may wait

        def applied() -> bool:
            view = service.stage("work")
            preparing = view["change"] is not None and view["change"]["state"] == "preparing"
            return not preparing and view["applied"] >= told["revision"]

        wait_for(applied, 30, "the change to be applied")
    return told


def steady(service: ServiceProcess, deadline: float = 30) -> dict[str, Any]:
    """Wait until the stage is wholly as desired; return it."""

    def look() -> dict[str, Any] | None:
        status, told = service.ask("GET", "/api/v1/status")
        assert status == 200, told
        stage = told["stages"][0]
        preparing = stage["change"] is not None and stage["change"]["state"] == "preparing"
        return stage if told["applied"] >= told["revision"] and not preparing else None

    return wait_for(look, deadline, "desired to equal actual")
