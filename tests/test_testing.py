"""`mqworker.testing`, and the project that `mqworker init` creates."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mqworker
from mqworker import Result, SharedValueError
from mqworker.jobs.codecs import UndecodableError, UnencodableError
from mqworker.testing import SharedObjects, run_job


def double(body, message, params):
    return {"double": body["n"] * 2, "id": message.message_id, "headers": dict(message.headers), "by": dict(params)}


def test_a_function_is_run_on_a_body_with_properties_and_parameters():
    """A test sees what a Consumer would pass to the job."""
    result = run_job(double, {"n": 4}, {"k": 1}, message_id="m1", headers={"h": 2})
    assert result == {"double": 8, "id": "m1", "headers": {"h": 2}, "by": {"k": 1}}


def test_body_and_result_go_through_the_codec():
    """What would become a dead letter fails the test."""
    assert run_job(lambda body: [type(body).__name__], (1, 2)) == ["list"]
    assert run_job(lambda body: body.decode(), b"ab") == "ab"
    assert run_job(lambda body: body, b"[1]", content_type="application/json") == [1]
    with pytest.raises(UndecodableError):
        run_job(lambda body: body, b"[1", content_type="application/json")
    with pytest.raises(UnencodableError):
        run_job(lambda body: {"a": 1j}, 1)


def test_chains_drop_and_raise_as_in_service():
    """None drops the message, exceptions pass through unchanged, teardown runs."""
    torn = []

    class Step:
        def handle(self, body):
            if body == "bad":
                raise mqworker.Reject("bad")
            return

        def teardown(self):
            torn.append(1)

    assert run_job([lambda body: body, Step], "good") is None
    with pytest.raises(mqworker.Reject):
        run_job([lambda body: body, Step], "bad")
    assert torn == [1, 1]


def test_the_template_passes_its_own_test_anywhere(tmp_path):
    """The project of `mqworker init` works when copied to another folder."""
    project = tmp_path / "somewhere"
    shutil.copytree(Path(mqworker.__file__).parent / "cli" / "templates" / "primes", project)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_importing_mqworker_stays_light():
    """Importing the package loads neither codecs, brokers nor web server."""
    code = (
        "import sys, mqworker; print(sorted(m for m in sys.modules if m.startswith(('mqworker', 'msgspec', 'pika'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "['mqworker', 'mqworker.errors']\n"


def test_several_results_are_a_list():
    """A job that yields gives all results, each checked as the stage would encode it."""

    def halves(body):
        yield Result(body / 2, routing_key="half")
        yield body / 2

    first, second = run_job(halves, 3)
    assert (first.body, first.routing_key, second) == (1.5, "half", 1.5)
    assert run_job(lambda body: (_ for _ in ()), 1) == []
    for wrong in ({"content_type": "text/csv"}, {"headers": {"x-mqworker-a": 1}}, {"headers": {"h": object()}}):
        with pytest.raises(UnencodableError):
            run_job(lambda body, wrong=wrong: Result(body, **wrong), 1)


SHARED = """\
import random

class Counts:
    def __init__(self):
        self.counts = {}
    def add(self, name, now):
        self.counts[name] = self.counts.get(name, 0) + 1
        return [self.counts[name], now]
    def guess(self):
        return random.random()
    def pair(self):
        return (1, 2)

def handle(body, counts):
    times, now = counts.add(body["name"])
    assert now > 0
    return {"times": times}

def guesses(body, counts):
    return counts.guess()

def pairs(body, counts):
    return counts.pair()
"""


def test_shared_objects_keep_their_state_between_runs_and_are_called_as_in_production(tmp_path):
    """What would not arrive as it is, is refused; a method that depends on chance is found by its replay."""
    (tmp_path / "shared_here.py").write_text(SHARED)
    shared = SharedObjects({"counts": "shared_here:Counts"}, tmp_path)
    for times in (1, 2):
        answer = run_job("shared_here:handle", {"name": "a"}, root=tmp_path, shared=shared)
        assert answer == {"times": times}
    assert shared["counts"].counts == {"a": 2}
    with pytest.raises(SharedValueError, match="tuple"):
        run_job("shared_here:pairs", {}, root=tmp_path, shared={"counts": "shared_here:Counts"})
    with pytest.raises(AssertionError, match="guess of counts gives another answer in a replay"):
        run_job("shared_here:guesses", {}, root=tmp_path, shared={"counts": "shared_here:Counts"})


class Quiet:
    """Answers how often it was asked in this minute, and forgets the others."""

    shared = True

    def __init__(self):
        self.asked = {}

    def handle(self, body, now):
        minute = now // 60
        self.asked[minute] = self.asked.get(minute, 0) + 1
        return body | {"times": self.asked[minute]}

    def tick(self, now):
        self.asked = {minute: times for minute, times in self.asked.items() if now // 60 - minute < 2}


def test_a_message_that_runs_again_gets_its_first_answer_and_time_passes_when_told():
    """Known by id and body; without an id each is a message of its own. `tick` is called when the test says so."""
    shared = SharedObjects({}, now=0.0)

    def times(n, **properties):
        return run_job(Quiet, {"n": n}, shared=shared, **properties)["times"]

    assert [times(1, message_id="a"), times(1, message_id="a"), times(2, message_id="a"), times(1)] == [1, 1, 2, 3]
    shared.now = 180.0
    assert times(3) == 1
    (name,) = shared.specs
    assert shared[name].asked == {0: 3, 3: 1}
    shared.tick()
    assert shared[name].asked == {3: 1}
    assert times(4) == 2, "and a replay of all that gives the same"


class Doubled:
    """An async job with a client, in a chain with a plain one and a shared object."""

    async def setup(self, params):
        await asyncio.sleep(0)
        self.factor = params["factor"]

    async def handle(self, body, counts, message):
        await asyncio.sleep(0)
        return [body, self.factor * body, await counts.add("x"), message.attempt]

    async def teardown(self):
        torn_down.append(self.factor)


torn_down = []


class Adds:
    """A shared object."""

    def __init__(self):
        self.count = 0

    def add(self, _name):
        self.count += 1
        return self.count


async def each(body):
    for value in body:
        await asyncio.sleep(0)
        yield value


def test_async_jobs_run_on_a_loop_of_their_own():
    """With setup and teardown, plain jobs, shared objects and generators in the chain."""
    shared = {"counts": Adds}
    assert run_job([lambda body: body + 1, Doubled], 1, {"factor": 10}, shared=shared) == [2, 20, 1, 1]
    assert torn_down == [10]
    assert run_job([each, lambda body: body or None, Doubled], [0, 3], {"factor": 1}, shared=shared) == [[3, 3, 1, 1]]
