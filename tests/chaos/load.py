"""The messages of a campaign, what should become of each, and the handler and configuration that compute it.

Pure. A message depends only on the campaign's seed and its number; its payload implies the right result, so content is
checked too. `HANDLER` is the user's code of the service under test; it records each start of a message in a journal,
one file for each process.
"""

import json
import random
import zlib
from dataclasses import dataclass
from typing import Any

GOOD = ("sum", "echo")
POISON = {
    "reject": "reject",
    "raise": "error",
    "exit": "crash",
    "segfault": "crash",
}  # kind -> reason of its dead letter
MAX_ATTEMPTS, CRASH_MAX = 2, 2
PREFETCH = 60
FOREIGN_BINDING = "cam.*.frame"
BODY_CANARY = "canary-in-a-body"  # must not be logged
LINE_CANARY = "canary-at-the-beginning-of-a-line"  # must not begin one
SIZES = ((100, 0.97), (10_000, 0.998), (1_000_000, 1.0))  # bytes of padding and cumulated share

HANDLER = f"""\
import ctypes, os, time, zlib
from pathlib import Path
from mqworker import Reject

journal = None


def work(body):
    global journal
    if journal is None:
        folder = Path(__file__).parent / "journal"
        folder.mkdir(exist_ok=True)
        journal = os.open(folder / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
    os.write(journal, f"{{time.monotonic()}} {{body['id']}}\\n".encode())
    if body["kind"] == "reject":
        raise Reject("as asked\\n{LINE_CANARY} \\x1b[31m")
    if body["kind"] == "raise":
        raise ValueError("always\\r\\n{LINE_CANARY}")
    if body["kind"] == "exit":
        os._exit(3)
    if body["kind"] == "segfault":
        ctypes.string_at(0)
    time.sleep(body["seconds"])
    result = {{"id": body["id"], "sum": sum(body["numbers"]), "crc": zlib.crc32(body["pad"].encode())}}
    return result | {{"pad": body["pad"]}} if body["kind"] == "echo" else result
"""


TASKS = (
    HANDLER.replace("def work", "async def work")
    .replace("time.sleep", "await asyncio.sleep")
    .replace("import ctypes", "import asyncio, ctypes")
)
KILLERS = ("exit", "segfault")  # kinds of messages


@dataclass(frozen=True)
class Message:
    """One input: what is published, and what must become of it."""

    id: str
    kind: str
    body: bytes

    @property
    def correlation(self) -> str:
        """Its correlation id."""
        return f"c-{self.id}"

    @property
    def headers(self) -> dict[str, Any]:
        """A foreign header that must be preserved."""
        return {"x-foreign": f"f-{self.id}"}

    @property
    def good(self) -> bool:
        """Whether it should have a result."""
        return self.kind in GOOD

    def expected(self) -> dict[str, Any]:
        """The right result of a good one."""
        body = json.loads(self.body)
        result = {"id": self.id, "sum": sum(body["numbers"]), "crc": zlib.crc32(body["pad"].encode())}
        return result | {"pad": body["pad"]} if self.kind == "echo" else result


def make(run: str, number: int, *, poison: float = 0.01, killers: bool = False, seconds: float = 0.001) -> Message:
    """Message `number` of a run; `poison` is the share of bad ones, `killers` makes one in 400 deadly."""
    chance = random.Random(f"{run}.{number}")
    kind = "sum"
    if chance.random() < poison:
        kind = chance.choice(("reject", "raise"))
    elif killers and chance.random() < 1 / 400:
        kind = chance.choice(KILLERS)
    draw = chance.random()
    size = next(size for size, share in SIZES if draw <= share)
    if kind == "sum" and chance.random() < 0.1:
        kind = "echo"
    if kind not in GOOD:
        size = 100
    body = {
        "id": f"{run}.{number}",
        "kind": kind,
        "seconds": round(chance.expovariate(1 / seconds), 6),
        "numbers": [chance.randrange(1_000_000) for _ in range(4)],
        "pad": BODY_CANARY + "x" * size,
    }
    return Message(body["id"], kind, json.dumps(body).encode())


@dataclass(frozen=True)
class Queues:
    """The names of one run."""

    run: str

    @property
    def input(self) -> str:
        """The input queue."""
        return f"{self.run}.in"

    @property
    def output(self) -> str:
        """The queue of results."""
        return f"{self.run}.out"

    @property
    def dead(self) -> str:
        """The dead-letter queue."""
        return f"{self.run}.in.dlq"

    @property
    def exchange(self) -> str:
        """The exchange of results."""
        return f"{self.run}.results"

    @property
    def source(self) -> str:
        """The exchange to which a foreign input is bound."""
        return f"{self.run}.events"


def config(queues: Queues, url: str, kind: str, consumers: int = 3, seats: int = 1) -> str:
    """Return the configuration of the service under test: one stage `work`."""
    source, output = f'"{queues.input}"', f'"{queues.output}"'
    if kind == "foreign":
        source = f'{{ queue = "{queues.input}", exchange = "{queues.source}", bindings = ["{FOREIGN_BINDING}"] }}'
        output = f'{{ exchange = "{queues.exchange}", routing_key = "out" }}'
    elif kind != "sqlite":
        output = f'{{ queue = "{queues.output}", exchange = "{queues.exchange}", routing_key = "out" }}'
    return f"""\
[service]
name = "chaos"
drain_deadline = 10
log_format = "json"
[control]
port = 0
[broker]
url = "{url}"
heartbeat = 5
confirm_deadline = 4
[stages.work]
input = {source}
jobs = ["work:work"]
output = {output}
queue_type = "{"quorum" if kind == "quorum" else "classic"}"
consumers = {consumers}
concurrency = {seats}
prefetch = {PREFETCH}
retry = {{ max_attempts = {MAX_ATTEMPTS}, base = 1, max = 2 }}
crash = {{ max = {CRASH_MAX} }}
"""
