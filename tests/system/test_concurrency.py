"""Several messages at once in one Consumer, in a whole service: who is charged with a death, and nobody else is."""

import json
import os
import signal
import time
from collections import Counter

import pytest

from tests.support import foreign
from tests.support.embedded import DEAD, OUTPUT, Client, config, put, steady
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for, within
from tests.system.stage import config as on_rabbitmq

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("concurrency")]  # they share two services

SEATS = 64
THREADS = 16
ONCE, TWICE = "retry = { max_attempts = 1 }", "crash = { max = 2 }"

JOBS = """
import asyncio, ctypes, itertools, os, resource, signal, threading, time
from pathlib import Path
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

HERE = Path(__file__).parent


def begun(body):
    with (HERE / "starts").open("a") as file:
        file.write(f"{body['n']}\\n")


def answer(body, message, params):
    return {"n": body["n"], "pid": os.getpid(), "params": dict(params), "attempt": message.attempt,
            "crashes": message.headers.get("x-mqworker-crashes", 0)}


told = {}  # what messages wait for


def look(name, loop):  # so that no task has the loop while all wait: whoever has it at a kill is charged
    while not (HERE / name).exists():
        time.sleep(0.02)
    loop.call_soon_threadsafe(told[name].set)


async def until(name):
    if name not in told:
        told[name] = asyncio.Event()
        threading.Thread(target=look, args=(name, asyncio.get_running_loop()), daemon=True).start()
    await told[name].wait()


async def task(body, message, params):
    begun(body)
    if "until" in body:
        await until(body["until"])
    await asyncio.sleep(body.get("seconds", 0.003))
    match body.get("does"):
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "native":
            all(itertools.repeat(1))  # holds the interpreter for ever
        case "hold":
            time.sleep(body["holds"])
        case "stubborn":
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    pass
    return answer(body, message, params)


def thread(body, message, params):
    begun(body)
    while "until" in body and not (HERE / body["until"]).exists():
        time.sleep(0.02)
    time.sleep(body.get("seconds", 0.003))
    match body.get("does"):
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "native":
            all(itertools.repeat(1))  # holds the interpreter for ever
        case "stubborn":
            time.sleep(600)
    return answer(body, message, params)
"""


def of(kind: str, seats: int, *lines: str, consumers: int = 1) -> str:
    """Return a configuration with this job."""
    more = (f"concurrency = {seats}", *lines)
    return config(*more, consumers=consumers, service="drain_deadline = 60").replace("jobs:handle", f"jobs:{kind}")


@pytest.fixture(scope="module")
def tasks(module_service):
    """A service with one Consumer of 64 tasks."""
    made = module_service(of("task", SEATS, ONCE, TWICE), {"jobs.py": JOBS}).start()
    with Client(made) as client:
        yield made, client
    assert made.stop() == 0


@pytest.fixture(scope="module")
def threads(module_service):
    """A service with one Consumer of 16 threads."""
    made = module_service(of("thread", THREADS, ONCE, TWICE), {"jobs.py": JOBS}).start()
    with Client(made) as client:
        yield made, client
    assert made.stop() == 0


def starts(service: ServiceProcess) -> Counter[int]:
    """Return how often each message was begun."""
    file = service.folder / "starts"
    return Counter(map(int, file.read_text().split())) if file.exists() else Counter()


def begun(service: ServiceProcess, numbers: range, times: int = 1) -> None:
    """Wait until each of these messages was begun so often."""
    wait_for(lambda: all(starts(service)[n] >= times for n in numbers), 30, f"{len(numbers)} begun {times} times")


def go(service: ServiceProcess, name: str) -> None:
    """Let the messages end that wait for this."""
    (service.folder / name).touch()


def consumer(service: ServiceProcess) -> int:
    """Return the pid of the only Consumer."""
    (pid,) = wait_for(lambda: service.named("mqw-consumer"), 20, "a Consumer")
    return pid


def innocent(client: Client, numbers: range) -> None:
    """Each of these messages has one result, of a first attempt that was never charged with anything."""
    wait_for(lambda: set(numbers) <= {one.body["n"] for one in client.results()}, 30, "their results")
    found = [one.body for one in client.results() if one.body["n"] in numbers]
    assert sorted(one["n"] for one in found) == list(numbers)
    assert {(one["attempt"], one["crashes"]) for one in found} == {(1, 0)}


def dead(client: Client, number: int, deadline: float) -> dict:
    """Wait for the dead letter of a message, and return its headers."""

    def letter() -> dict | None:
        return next((dict(one.properties.headers) for one in client.results(DEAD) if one.body["n"] == number), None)

    return wait_for(letter, deadline, f"the dead letter of {number}")


def test_64_messages_at_once_are_shown_with_their_times(tasks):
    """Status lists all that are in hand; 64 of 50 ms take little longer than one; nothing of them is left behind."""
    service, client = tasks
    numbers = client.send(SEATS, until="shown")
    begun(service, numbers)
    (one,) = wait_for(
        lambda: [each for each in service.stage("work")["actual"]["consumers"] if len(each["messages"]) == SEATS],
        10,
        "64 messages to be shown",
    )
    assert one["seats"] == SEATS
    assert service.stage("work")["actual"]["consumers"][0]["used"] == SEATS
    go(service, "shown")
    innocent(client, numbers)
    began = time.monotonic()
    others = client.send(10 * SEATS, seconds=0.05)
    innocent(client, others)
    assert time.monotonic() - began < 10 * SEATS * 0.05 / 4
    assert {starts(service)[n] for n in (*numbers, *others)} == {1}


def test_a_soft_limit_is_taken_for_coroutines_alone(tasks, threads):
    """For threads it is refused, with the name of the job."""
    status, told = threads[0].ask("PUT", "/api/v1/stages/work/time-limit?wait=30", {"soft": 5, "hard": 10})
    assert status == 422
    assert "jobs:thread" in json.dumps(told)
    put(tasks[0], "time-limit", {"soft": 5, "hard": 10})
    put(tasks[0], "time-limit", {"soft": 0, "hard": 0})


def test_a_killed_consumer_with_64_waiting_runs_all_again_uncharged(tasks):
    """However often it is killed while all wait: each time all 64 run again at once, and none is charged."""
    service, client = tasks
    numbers = client.send(SEATS, until="after the kills")
    for times in (1, 2, 3):
        begun(service, numbers, times)
        os.kill(consumer(service), signal.SIGKILL)
    with within(20, "all 64 to run again"):
        begun(service, numbers, 4)
    go(service, "after the kills")
    innocent(client, numbers)
    assert {starts(service)[n] for n in numbers} == {4}


@pytest.mark.parametrize("kind", ["tasks", "threads"])
def test_a_segfault_among_many_is_one_dead_letter(kind, request):
    """It is dead within seconds, with its stack, while its neighbours go on for long; they are never charged."""
    service, client = request.getfixturevalue(kind)
    seats = SEATS if kind == "tasks" else THREADS
    first = client.send(seats // 2, until="after the segfaults")
    (bad,) = client.send(1, does="segfault")
    second = client.send(seats // 2 - 1, until="after the segfaults")
    with within(15, "the dead letter"):
        found = dead(client, bad, 60)
    assert found["x-mqworker-reason"] == "crash"
    assert found["x-mqworker-crashes"] == 2
    assert "SIGSEGV" in found["x-mqworker-exit"]
    assert "string_at" in found["x-mqworker-traceback"] + found["x-mqworker-exit"]
    assert starts(service)[bad] == 2
    go(service, "after the segfaults")
    innocent(client, first)
    innocent(client, second)
    assert max(starts(service)[n] for n in (*first, *second)) <= 3


def test_a_task_that_ends_its_process_is_charged_alone(tasks):
    """The register says who had the loop."""
    service, client = tasks
    numbers = client.send(10, until="after the exit")
    (bad,) = client.send(1, does="exit")
    found = dead(client, bad, 30)
    assert found["x-mqworker-crashes"] == 2
    go(service, "after the exit")
    innocent(client, numbers)


def test_who_holds_the_loop_is_named_and_pays_alone(tasks):
    """Its neighbours stand still, which costs them no limit; it is killed at its own, and shown without one."""
    service, client = tasks
    (held,) = client.send(1, does="hold", holds=4)
    shown = wait_for(
        lambda: [one for one in service.stage("work")["actual"]["consumers"] if one["held_by"]],
        20,
        "who holds the loop",
    )
    assert (shown[0]["held_by"], shown[0]["held_seconds"] > 1) == (str(held), True)
    innocent(client, range(held, held + 1))
    put(service, "time-limit", {"soft": 0, "hard": 2.0})
    numbers = client.send(20, seconds=1.2)
    (bad,) = client.send(1, does="hold", holds=60)
    begun(service, range(bad, bad + 1))
    found = dead(client, bad, 40)
    assert found["x-mqworker-reason"] == "timeout"
    assert "time.sleep" in found["x-mqworker-traceback"] + found["x-mqworker-exit"]
    innocent(client, numbers)
    named = [event for event in service.events() if event["event"] == "loop_blocked"]
    assert {event["message_id"] for event in named} == {str(held), str(bad)}
    assert "in task" in named[0]["msg"]
    put(service, "time-limit", {"soft": 0, "hard": 0})


@pytest.mark.parametrize("kind", ["tasks", "threads"])
def test_who_exceeds_the_hard_limit_and_does_not_end_is_charged_alone(kind, request):
    """Its Consumer takes nothing more, a successor goes on, and neighbours have time to finish before it is killed."""
    service, client = request.getfixturevalue(kind)
    put(service, "time-limit", {"soft": 0, "hard": 2.0})
    (bad,) = client.send(1, does="stubborn")
    begun(service, range(bad, bad + 1))
    overdue = time.monotonic() + (3.0 if kind == "tasks" else 2.0)
    wait_for(lambda: time.monotonic() > overdue - 0.6, 10, "the time to begin others")
    numbers = client.send(10, seconds=1.0)  # they are at work when it is overdue, and far from that themselves
    begun(service, numbers)
    found = dead(client, bad, 40)
    assert found["x-mqworker-reason"] == "timeout"
    innocent(client, numbers)
    assert max(starts(service)[n] for n in numbers) == 1
    put(service, "time-limit", {"soft": 0, "hard": 0})


@pytest.mark.long  # and with it the group
@pytest.mark.parametrize("kind", ["tasks", "threads"])
def test_who_holds_the_interpreter_is_found(kind, request):
    """Nothing in its Consumer gets on: that is killed at the hard limit, and in the end the guilty one pays."""
    service, client = request.getfixturevalue(kind)
    put(service, "time-limit", {"soft": 0, "hard": 2.0})
    numbers = client.send(4, seconds=0.5)
    (bad,) = client.send(1, does="native")
    later = client.send(4, seconds=0.5)
    found = dead(client, bad, 90)
    assert found["x-mqworker-reason"] in {"timeout", "crash"}
    innocent(client, numbers)
    innocent(client, later)
    put(service, "time-limit", {"soft": 0, "hard": 0})


def test_a_thread_that_ends_its_process_is_found(threads):
    """Nothing names it at first; those in hand at two such deaths run one by one, and its next death is its own."""
    service, client = threads
    numbers = client.send(4, until="after the exits")
    (bad,) = client.send(1, does="exit")
    found = dead(client, bad, 60)
    assert found["x-mqworker-reason"] == "crash"
    go(service, "after the exits")
    innocent(client, numbers)


@pytest.mark.parametrize("kind", ["tasks", "threads"])
def test_what_is_in_hand_is_finished_when_the_code_changes(kind, request):
    """A switch waits for nobody and mixes nothing: what has begun keeps its parameters, what follows has the new."""
    service, client = request.getfixturevalue(kind)
    put(service, "params", {"tag": "old"}, method="PATCH")
    numbers = client.send(8, until=f"after the switch of {kind}")
    begun(service, numbers)
    put(service, "params", {"tag": "new"}, method="PATCH")
    later = client.send(8)
    innocent(client, later)
    put(service, "restart", method="POST")
    innocent(client, client.send(8))
    go(service, f"after the switch of {kind}")
    innocent(client, numbers)
    tags = {one.body["n"]: one.body["params"]["tag"] for one in client.results() if one.body["n"] >= numbers[0]}
    assert {tags[n] for n in numbers} == {"old"}
    assert {tags[n] for n in later} == {"new"}
    steady(service)


@pytest.mark.parametrize("kind", ["tasks", "threads"])
def test_pause_and_drain_finish_what_has_begun(kind, request):
    """While the stage does not listen nothing begins; what has begun ends."""
    service, client = request.getfixturevalue(kind)
    numbers = client.send(8, until=f"after the pause of {kind}")
    begun(service, numbers)
    put(service, "listening", {"enabled": False})
    later = client.send(8)
    go(service, f"after the pause of {kind}")
    innocent(client, numbers)
    assert not set(later) & starts(service).keys()
    put(service, "listening", {"enabled": True})
    innocent(client, later)


@pytest.mark.parametrize("seats", [SEATS, THREADS])
def test_a_stop_waits_for_what_is_in_hand(service, seats):
    """At SIGTERM the messages in hand end and are settled, the others stay in the queue; nobody is charged."""
    kind = "task" if seats == SEATS else "thread"
    running = service(of(kind, seats, "prefetch = 200"), {"jobs.py": JOBS}).start()
    with Client(running) as client:
        client.send(3 * seats, seconds=1.0)
        begun(running, range(seats))
        assert running.stop() == 0
        done, left = client.ready(OUTPUT), client.ready()
        assert (done + left, client.ready(DEAD)) == (3 * seats, 0)
        assert done >= seats
        assert done == len(starts(running)), "whatever has begun has a result"


@pytest.mark.rabbitmq
def test_on_rabbitmq_a_kill_charges_nobody_and_a_segfault_its_message(rabbit, queue, service):
    """64 that wait run again at once after a kill; then one of them ends dead, and the others have one result each."""
    text = on_rabbitmq(rabbit.url(), queue, f"concurrency = {SEATS}", TWICE, consumers=1).replace(
        "jobs:handle", "jobs:task"
    )
    running = service(text, {"jobs.py": JOBS}).start()
    with foreign.Client(rabbit.url()) as client:
        bodies = [{"n": n, "until": "go"} for n in range(SEATS)]
        bodies[40]["does"], bodies[40]["until"] = "segfault", "crash"
        for body in bodies:
            client.publish(queue, json.dumps(body).encode(), message_id=str(body["n"]), content_type="application/json")
        begun(running, range(SEATS))
        os.kill(consumer(running), signal.SIGKILL)
        begun(running, range(SEATS), 2)
        go(running, "crash")
        (letter,) = client.take(f"{queue}.dlq", 1, 30)
        assert json.loads(letter.body)["n"] == 40
        assert letter.headers["x-mqworker-crashes"] == 2
        go(running, "go")
        found = [json.loads(one.body) for one in client.take(f"{queue}.out", SEATS - 1, 30)]
        assert sorted(one["n"] for one in found) == [n for n in range(SEATS) if n != 40]
        assert {(one["attempt"], one["crashes"]) for one in found} == {(1, 0)}
        assert client.rest(f"{queue}.out") == []
    assert running.stop() == 0
