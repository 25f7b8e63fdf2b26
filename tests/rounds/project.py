"""The user's project of `scripts/rounds`: its code in several editions, its programs and its configuration.

Three stages, one for each way of updating. Each has Consumers only while a round needs them. A stage with another kind
of Consumer (threads, tasks) is one more row of STAGES: rounds choose among its rows.
"""

TAGS = "abcde"  # the editions of the code; few, because the copies of each stay for an hour
STAGES = {  # name -> further lines of its configuration
    "switch": 'update = "switch"',
    "rolling": 'update = "rolling"',
    "first": 'update = "old-first"',
}
STOPPED = "first"  # the stage whose Producer ends too; those of the others live as long as the service
SOURCES = {"rows": "switch", "tick": "rolling"}  # name -> its stage
SOLVER = 'exec:["./solver"]'
BREEDER = 'exec:["sh","-c","setsid sleep 1000 & cat"]'
ROWS = "rows.json"  # what the sources are to yield: {"first": 7, "count": 3, "ends": true}

_CODE = """\
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import msgspec
from mqworker import Reject, Result

TAG = "{tag}"


class Params(msgspec.Struct, forbid_unknown_fields=True):
    factor: int = 1


def signed(body, params):
    return body | {{"value": body["n"] * params.factor, "tag": TAG}}


def several(body):
    for part in range(3):
        yield body | {{"part": part}}


def dropped(body):
    return None if body["n"] % 2 else body


class Resource:
    def setup(self):
        self.file = open(__file__)
        self.ends = os.pipe()

    def handle(self, body):
        return body | {{"resource": not self.file.closed}}

    def teardown(self):
        self.file.close()


class Counts:
    def __init__(self):
        self.counts = {{}}

    def add(self, name):
        self.counts[name] = self.counts.get(name, 0) + 1
        return self.counts[name]


class Seen:
    shared = True

    def __init__(self):
        self.seen = set()

    def handle(self, event):
        first = event["n"] not in self.seen
        self.seen.add(event["n"])
        return event | {{"first": first}}


def counted(body, counts):
    return body | {{"calls": counts.add(str(body["n"]))}}


def doubled(body):
    return Result(body * 2, content_type="application/x-npy")


def turned(body):
    return Result(body[::-1], content_type="application/octet-stream")


def failing(body, message):
    if message.attempt == 1 and not body["calm"]:
        raise ValueError("the first attempt fails")
    return body


def killing(body, message):
    if not body["calm"] and not message.headers.get("x-mqworker-crashes"):
        os.kill(os.getpid(), signal.SIGKILL)
    return body


def hanging(body, message):
    if not body["calm"] and not message.headers.get("x-mqworker-crashes"):
        time.sleep(1000)
    return body


def rejecting(body):
    if not body["calm"]:
        raise Reject("never")
    return body


def parent(body):
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    return body


def rows():
    asked = json.loads(Path("rows.json").read_text())
    for n in range(asked["first"], asked["first"] + asked["count"]):
        yield {{"n": n}}
    while not asked["ends"]:
        yield None
        time.sleep(0.02)


def tick(due):
    asked = json.loads(Path("rows.json").read_text())
    for n in range(asked["first"], asked["first"] + asked["count"]):
        yield {{"n": n}}
"""
_STAGE = """\
[stages.{name}]
input = "{name}"
jobs = ["jobs:signed", {{ exec = ["./solver"] }}, {{ exec = ["sh", "-c", "setsid sleep 1000 & cat"] }}]
output = "{name}.out"
consumers = 0
retry = {{ max_attempts = 3, base = 0.1 }}
{lines}
"""
_CONFIG = """\
[service]
log_format = "json"
drain_deadline = 5  # also how long a shared object that nobody has in its chain lives on
[control]
port = 0
{broker}
{stages}
[shared.counts]
job = "jobs:Counts"
[sources.rows]
job = "jobs:rows"
into = "switch"
[sources.tick]
job = "jobs:tick"
into = "rolling"
cron = "0 0 1 1 *"
"""


def code(tag: str) -> str:
    """Return an edition of jobs.py; results say by which one they were computed."""
    return _CODE.format(tag=tag)


def config(broker: str) -> str:
    """Return mqworker.toml; `broker` is its section."""
    stages = "".join(_STAGE.format(name=name, lines=lines) for name, lines in STAGES.items())
    return _CONFIG.format(broker=broker, stages=stages)


FILES = {
    "jobs.py": code(TAGS[0]),
    "solver": '#!/bin/sh\nbody=$(cat)\necho "${body%\\}}, \\"solved\\": true}"\n',
    ROWS: '{"first": 0, "count": 0, "ends": true}',
}
