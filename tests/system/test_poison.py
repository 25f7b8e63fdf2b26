"""Deadly and broken messages, one in fifty among good ones: each is reported with its reason, no other is affected."""

import itertools
from collections import Counter

import pytest

from tests.support.embedded import DEAD, OUTPUT, Client, config
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

GOOD, EVERY = 1_500, 50
HANDLER = """\
import ctypes, itertools, os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Unpicklable(Exception):
    def __init__(self, one, two):
        super().__init__("no second argument when it is made again")
        self.lock = open(os.devnull)

    def __reduce__(self):
        raise TypeError("cannot be pickled")


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def handle(body, message):
    match body.get("how"):
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(0)
        case "fork":
            os.fork()
        case "close":
            os.closerange(0, 4096)
        case "print":
            sys.stdout.write("x" * 1_000_000)
        case "unpicklable":
            raise Unpicklable(1, 2)
        case "speechless":
            raise Speechless
        case "unencodable":
            return object()
        case "memory":
            return len(bytearray(1 << 31))
        case "loop":
            all(itertools.repeat(1))  # native, and looks at no signal
    return {"n": body["n"], "crashes": message.headers.get("x-mqworker-crashes", 0), "attempt": message.attempt}
"""
# kind -> reason, crashes that were counted, attempts, a word of the message and one of the exit
BAD = {
    "segfault": ("crash", 2, 1, "SIGSEGV", "killed by SIGSEGV"),
    "exit": ("crash", 2, 1, "exited with code 0", "exited with code 0"),
    "close": ("crash", 2, 1, "", "peak memory"),
    "unpicklable": ("error", 0, 2, "no second argument", ""),
    "speechless": ("error", 0, 2, "str() raised RuntimeError", ""),
    "unencodable": ("unencodable", 0, 1, "object", ""),
    "memory": ("memory", 0, 2, "", ""),
    "loop": ("timeout", 2, 1, "hard time limit of 1 s", "killed by SIGKILL"),
}
ODD = ("fork", "print")  # strange, and no reason to fail
STACK = {"segfault": "string_at", "loop": "in handle", "unpicklable": "in handle", "memory": "in handle"}
LINES = (
    "crash = { max = 2 }",
    "retry = { max_attempts = 2, base = 1 }",
    "time_limit = { hard = 1 }",
    "memory_limit = 1_000_000_000",
)


def test_poison_one_in_fifty_harms_nobody_else(service):
    """1,500 good ones exactly once and uncharged; each bad one, three of every kind, dead once with its evidence."""
    running = service(config(*LINES), {"jobs.py": HANDLER}).start()
    kinds: dict[int, str] = {}
    with Client(running) as client:
        for _, how in zip(range(0, GOOD, EVERY), itertools.cycle([*BAD, *ODD]), strict=False):
            client.send(EVERY)
            (n,) = client.send(1, how=how)
            kinds[n] = how
        bad = {n for n, how in kinds.items() if how in BAD}
        wait_for(lambda: client.ready(OUTPUT) + client.ready(DEAD) >= client.sent, 120, "an outcome of every message")
        results = [result.body for result in client.results()]
        assert Counter(result["n"] for result in results) == Counter(set(range(client.sent)) - bad)
        assert {(result["crashes"], result["attempt"]) for result in results} == {(0, 1)}
        letters = {int(str(letter.properties.message_id)): letter for letter in client.results(DEAD)}
        assert client.ready(DEAD) == len(letters)
        assert letters.keys() == bad
        for n, letter in letters.items():
            headers = dict(letter.properties.headers)
            reason, crashes, attempt, word, end = BAD[kinds[n]]
            counted = headers["x-mqworker-reason"], headers.get("x-mqworker-crashes", 0), headers["x-mqworker-attempt"]
            assert counted == (reason, crashes, attempt), (kinds[n], headers)
            assert word in headers.get("x-mqworker-message", ""), headers
            assert end in headers.get("x-mqworker-exit", ""), headers
            assert STACK.get(kinds[n], "") in headers.get("x-mqworker-traceback", ""), headers
            assert letter.body == {"n": n, "how": kinds[n]}
        assert client.ready() == 0
        assert running.stage("work")["restarts"] == 0
        ends = [event for event in running.events() if event["event"] == "consumer_ended"]
        print(f"{client.sent} messages, {len(bad)} of them bad, {len(ends)} Consumers replaced")
