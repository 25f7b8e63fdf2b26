"""The messages of a run in an order, the handler that computes them, and the configuration of its stage.

Pure, like `load`, whose messages these are with a key. The handler notes each begin in `journal` and each end in
`ended`, a file for each process; an end is a result, or the last failure.
"""

import json
import random
from dataclasses import dataclass
from typing import Any

from tests.chaos.load import PREFETCH, Message, Queues

KEY = "camera"  # the header that names the key
KEYS = 20
MAX_ATTEMPTS = 3
SHORTEST, LONGEST = 0.0001, 0.02  # seconds of a message
FAIL_ONCE, FAIL_ALWAYS = 0.01, 0.002  # shares
CONSUMERS = 4
BY = {"key": f"header:{KEY}", "input": "input"}

HANDLER = f"""\
import os, time, zlib
from pathlib import Path

files = {{}}


def note(name, body):
    if name not in files:
        folder = Path(__file__).parent / name
        folder.mkdir(exist_ok=True)
        files[name] = os.open(folder / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
    os.write(files[name], f"{{time.monotonic()}} {{body['id']}}\\n".encode())


def work(body, message):
    note("journal", body)
    time.sleep(body["seconds"])
    if message.attempt <= body["fails"]:
        if message.attempt == {MAX_ATTEMPTS}:
            note("ended", body)
        raise ValueError("as asked")
    note("ended", body)
    return {{"id": body["id"], "sum": sum(body["numbers"]), "crc": zlib.crc32(body["pad"].encode())}}
"""


@dataclass(frozen=True)
class Keyed(Message):
    """A message with a key; the first `fails` attempts fail."""

    key: str
    fails: int

    @property
    def headers(self) -> dict[str, Any]:
        """Its key, and a foreign header."""
        return super().headers | {KEY: self.key}


def make(run: str, number: int) -> Keyed:
    """Message `number` of a run."""
    chance = random.Random(f"{run}.{number}")
    draw = chance.random()
    fails = MAX_ATTEMPTS if draw < FAIL_ALWAYS else int(draw < FAIL_ALWAYS + FAIL_ONCE)
    body = {
        "id": f"{run}.{number}",
        "fails": fails,
        "seconds": round(chance.uniform(SHORTEST, LONGEST), 6),
        "numbers": [chance.randrange(1_000_000) for _ in range(4)],
        "pad": "x" * 100,
    }
    kind = "raise" if fails == MAX_ATTEMPTS else "sum"
    return Keyed(body["id"], kind, json.dumps(body).encode(), f"{KEY}-{chance.randrange(KEYS)}", fails)


def config(queues: Queues, url: str, kind: str, by: str, on_failure: str) -> str:
    """Return the configuration: on RabbitMQ the queue of results is somebody else's, and refuses when it is full."""
    output = f'"{queues.output}"'
    if kind != "sqlite":
        output = f'{{ exchange = "{queues.exchange}", routing_key = "out" }}'
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
input = "{queues.input}"
jobs = ["work:work"]
output = {output}
queue_type = "{"quorum" if kind == "quorum" else "classic"}"
ordered_by = "{BY[by]}"
on_failure = "{on_failure}"
consumers = {CONSUMERS}
prefetch = {PREFETCH}
retry = {{ max_attempts = {MAX_ATTEMPTS}, base = 0.05, max = 1.0 }}
crash = {{ max = 10000 }}
time_limit = {{ hard = 60 }}
"""
