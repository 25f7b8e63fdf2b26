"""Several messages at once in one Consumer: what holds for one at a time holds for them, whatever is killed."""

import contextlib
import os
import signal

import pytest

from tests.support.embedded import DEAD, OUTPUT, Client, config
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

JOBS = """
import asyncio, time
from pathlib import Path

HERE = Path(__file__).parent


class Counts:
    def __init__(self):
        self.counts = {}

    def add(self, name):
        self.counts[name] = self.counts.get(name, 0) + 1
        return self.counts[name]


def answer(body, message, times=1):
    return {"n": body["n"], "times": times, "attempt": message.attempt,
            "crashes": message.headers.get("x-mqworker-crashes", 0)}


async def task(body, message):
    while "until" in body and not (HERE / body["until"]).exists():
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.02)
    return answer(body, message)


def thread(body, message):
    time.sleep(0.02)
    return answer(body, message)


async def counting_task(body, message, counts):
    times, other = await asyncio.gather(counts.add(f"{body['n']}"), counts.add(f"{body['n']} again"))
    await asyncio.sleep(0.005)
    return answer(body, message, max(times, other))


def counting_thread(body, message, counts):
    times = counts.add(f"{body['n']}")
    time.sleep(0.005)
    return answer(body, message, times)
"""
SHARED = '[shared.counts]\njob = "jobs:Counts"\n'


def of(job: str, seats: int, *lines: str, consumers: int = 2) -> str:
    """Return a configuration with this job."""
    return config(f"concurrency = {seats}", *lines, consumers=consumers).replace("jobs:handle", f"jobs:{job}")


def kill_one(running: ServiceProcess, kind: str) -> None:
    """Kill a process of this kind; others come and go meanwhile."""

    def killed() -> bool:
        with contextlib.suppress(IndexError, ProcessLookupError):
            os.kill(running.named(kind)[0], signal.SIGKILL)
            return True
        return False

    wait_for(killed, 20, kind)


def descriptors(running: ServiceProcess) -> int:
    """Return how many the Producer has open."""
    (pid,) = running.named("mqw-producer")
    return running.descriptors(pid)


KILLS = 8


@pytest.mark.parametrize("job", ["task", "thread"])
def test_killed_consumers_lose_and_repeat_nothing(service, job):
    """kill -9 of Consumers under load: one result each, and at most one message is charged for each kill."""
    running = service(of(job, 16, "prefetch = 100"), {"jobs.py": JOBS}).start()
    with Client(running) as client:
        client.send(200)
        wait_for(lambda: client.ready(OUTPUT) >= 100, 30, "some results")
        before = descriptors(running)
        for _ in range(KILLS):
            goal = client.ready(OUTPUT) + 100
            client.send(200)
            wait_for(lambda g=goal: client.ready(OUTPUT) >= g, 60, "some results")
            kill_one(running, "mqw-consumer")
        results = client.finish(120)
        assert {one.body["attempt"] for one in results} == {1}
        assert sum(one.body["crashes"] for one in results) <= KILLS, "only who had the loop, or was alone"
        wait_for(lambda: descriptors(running) <= before + 4, 20, "as many descriptors as before")
    assert running.stop() == 0


@pytest.mark.parametrize("job", ["counting_task", "counting_thread"])
def test_calls_of_shared_objects_have_their_effect_once(service, job):
    """Consumers, the object's process and the Producer are killed: every entry is exactly 1."""
    running = service(of(job, 8, "crash = { max = 20 }") + SHARED, {"jobs.py": JOBS}).start()
    with Client(running) as client:
        for victim in ("mqw-consumer", "mqw-shared", "mqw-producer", "mqw-shared", "mqw-consumer"):
            before = client.ready(OUTPUT)
            client.send(300)
            wait_for(lambda: client.ready(OUTPUT) > before + 50, 30, "some results")  # noqa: B023 - at once
            kill_one(running, victim)
        results = client.finish(120)
        assert {one.body["times"] for one in results} == {1}
    assert running.stop() == 0


def test_waiting_coroutines_are_no_suspects(service):
    """After two deaths of the tree all 64 that waited are at work again at once."""
    running = service(of("task", 64, "prefetch = 100", consumers=1), {"jobs.py": JOBS}).start()

    def at_work() -> int:
        actual = running.stage("work")["actual"]
        return sum(len(one["messages"]) for one in actual["consumers"]) if actual else 0

    with Client(running) as client:
        client.send(64, until="the end")
        for _ in range(2):
            wait_for(lambda: at_work() == 64, 30, "64 at work")
            (pid,) = running.named("mqw-producer")
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda p=pid: set(running.named("mqw-producer")) - {p}, 20, "another Producer")
        wait_for(lambda: at_work() == 64, 10, "64 at work again, all at once")
        running.write("the end", "")
        results = client.finish()
        assert {(one.body["attempt"], one.body["crashes"]) for one in results} == {(1, 0)}
        assert client.ready(DEAD) == 0
    assert running.stop() == 0
