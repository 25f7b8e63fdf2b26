"""kill -9 and worse, on a whole service with a real broker under load: what is charged, what goes on, what is left."""

import contextlib
import os
import signal
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.service import ServiceProcess, gone
from tests.support.traffic import (
    HANDLER,
    PREFETCH,
    Lasts,
    Traffic,
    Watcher,
    in_hand,
    journal,
    producers,
)
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]


@pytest.fixture
def traffic(rabbit):
    with Traffic(rabbit.url()) as made:
        yield made


def kill(pid: int, number: int = signal.SIGKILL) -> float:
    """Send it; returns when."""
    now = time.monotonic()
    os.kill(pid, number)
    return now


def exists(pid: int) -> bool:
    """Return whether it lives (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def moment(event: dict) -> float:
    """Return when an event was logged, by the monotonic clock."""
    return datetime.fromisoformat(event["time"]).timestamp() - time.time() + time.monotonic()


def threads(pid: int) -> int:
    """Return how many threads a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def end(service: ServiceProcess) -> None:
    """Stop in order; nothing may be left."""
    assert service.stop() == 0, service.log.read_text()[-3000:]
    gone(service)
    wait_for(lambda: not service.leaked_semaphores(), 20, "no semaphore to be left")


def working(service: ServiceProcess, count: int) -> list[int]:
    """Return the pids of Consumers that have started a message, when there are this many."""
    pids = service.named("mqw-consumer")
    noted = [pid for pid in pids if (service.folder / "journal" / str(pid)).exists()]
    return noted if len(noted) == count else []


@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.release)])
def test_a_killed_consumer_costs_its_message_one_crash_and_nobody_else_anything(traffic, kills):
    """kill -9 of Consumers under load: all is processed once, only the message in hand is charged."""
    deaths: dict[int, float] = {}
    traffic.pad = 200_000  # more than a pipe holds: a kill meets a half written chunk
    with ServiceProcess(traffic.config(), {"work.py": HANDLER}) as service:
        service.start()
        replaced = Lasts("Consumer killed, the next one at work")
        (producer,) = producers(service)
        traffic.until(lambda: working(service, 4), 20, "four Consumers at work")
        fds, tasks = service.descriptors(producer), threads(producer)
        for round_ in range(kills):
            pids = traffic.until(lambda: working(service, 4), 20, "four Consumers at work")
            victim = pids[round_ % 4]
            deaths[victim] = kill(victim)
            others = set(pids) - {victim}
            traffic.until(lambda o=others, v=victim: set(working(service, 4)) - {v} > o, 20, "a new Consumer at work")
            replaced.since(deaths[victim])
        assert producers(service) == [producer]
        traffic.until(lambda: working(service, 4), 20, "four Consumers at work")
        flat = f"descriptors and threads of the Producer to be {fds} and {tasks} as before"
        wait_for(lambda: service.descriptors(producer) <= fds and threads(producer) <= tasks, 10, flat)
        traffic.finish()
        judge_consumer_kills(service, traffic, deaths)
        noticed = Lasts("Consumer killed, its messages dispatched again")
        for event in service.events():
            if event["event"] == "consumer_ended":
                noticed.since(deaths[event["consumer_pid"]], moment(event))
        assert len(noticed.seconds) == kills
        print(replaced, noticed, flat, sep="\n")
        end(service)


def judge_consumer_kills(service: ServiceProcess, traffic: Traffic, deaths: dict[int, float]) -> None:
    """Compare what was charged with what the journal shows as in hand."""
    assert traffic.repeats() == 0
    assert not traffic.dead
    charged, notes = Counter(traffic.charged()), journal(service)
    held = [(n, pid) for pid in deaths if (n := in_hand(service, pid)) is not None]
    certain = Counter(n for n, _ in held)
    assert certain <= charged
    # A Consumer killed in the microseconds between the journal's notes and its slot's may be charged or not.
    assert (charged - certain).total() <= len(deaths) - len(held)
    for n, pid in held:
        # The killed one may have begun it between the note of its death and the death.
        begins = [note for note in notes if note.n == n and note.sign == "begin" and note.pid != pid]
        again = min(note.time for note in begins if note.time > deaths[pid])
        assert again - deaths[pid] >= 1.0, "it comes back over the 1 s rung"
    begun_again = sum(note.sign == "begin" for note in notes) - traffic.sent
    print(f"{traffic.sent} messages, {charged.total()} charges for {len(deaths)} deaths, {begun_again} begun again")
    assert begun_again <= len(deaths), "what was finished and not handed up yet is computed again"


@pytest.mark.parametrize("trees", [4, pytest.param(10, marks=[pytest.mark.release, pytest.mark.long])])
def test_a_killed_producer_loses_nothing_and_leaves_nobody(traffic, trees):
    """kill -9 of the Producer under load, again and again: no loss, repeats within the prefetch, one tree at a time."""
    with ServiceProcess(traffic.config(), {"work.py": HANDLER}) as service, Watcher(service, traffic) as watcher:
        service.start()
        orphans, again = Lasts("Producer killed, its Consumers gone"), Lasts("Producer killed, a new tree at work")
        for _ in range(trees):
            old = set(traffic.until(lambda: working(service, 4), 20, "four Consumers at work"))
            (producer,) = producers(service)
            killed = kill(producer)
            wait_for(lambda o=old: not any(map(exists, o)), 5, "its Consumers to be gone")
            orphans.since(killed)
            traffic.until(lambda o=old: set(service.named("mqw-consumer")) - o and fresh(service, o), 20, "a new tree")
            again.since(killed)
        traffic.finish()
        watcher.check()
        assert not traffic.dead
        assert not traffic.charged(), "the death of the tree is charged to nobody"
        assert traffic.repeats() <= trees * PREFETCH
        assert service.stage("work")["restarts"] == trees
        wait_for(lambda: not service.leaked_semaphores(), 20, "semaphores not to pile up while the Service lives")
        print(orphans, again, f"{traffic.sent} messages, {traffic.repeats()} repeated", sep="\n")
        end(service)


def fresh(service: ServiceProcess, old: set[int]) -> bool:
    """Return whether a Consumer has started a message that is not one of the old ones."""
    return any(int(path.name) not in old and exists(int(path.name)) for path in (service.folder / "journal").iterdir())


def test_a_frozen_consumer_is_killed_at_the_hard_limit_and_its_message_is_charged(traffic):
    """SIGSTOP of a busy Consumer: it is killed at the hard limit; the others go on meanwhile."""
    config = traffic.config(stage="time_limit = { hard = 3 }")
    with ServiceProcess(config, {"work.py": HANDLER}) as service:
        service.start()
        traffic.until(lambda: len(working(service, 4)) == 4, 20, "four Consumers at work")
        victim, n = traffic.until(lambda: freeze_one_at_work(service), 20, "a Consumer with a message in hand")
        frozen, before = time.monotonic(), len(traffic.done())
        traffic.until(lambda: not exists(victim), 10, "the frozen Consumer to be killed")
        took = time.monotonic() - frozen
        assert len(traffic.done()) - before > 20, "the others go on"
        traffic.until(lambda: working(service, 4), 20, "four Consumers at work")
        traffic.finish()
        assert traffic.charged() == {n: 1}
        assert traffic.repeats() == 0
        (event,) = [event for event in service.events() if event["event"] == "retried"]
        assert (event["reason"], event["message_id"]) == ("timeout", str(n))
        print(f"frozen Consumer killed after {took:.2f} s at a limit of 3 s")
        end(service)


def freeze_one_at_work(service: ServiceProcess) -> tuple[int, int] | None:
    """Stop a Consumer; resume it and return None when it had nothing in hand."""
    pid = service.named("mqw-consumer")[0]
    os.kill(pid, signal.SIGSTOP)
    if (n := in_hand(service, pid)) is not None:
        return pid, n
    os.kill(pid, signal.SIGCONT)
    return None


EXITS = """\
import ctypes, os, resource, signal, sys, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def work(body):
    how = body.get("how")
    print("begin", body["n"], how)
    if how == "os._exit(0)":
        os._exit(0)
    if how == "sys.exit(1)":
        sys.exit(1)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "close everything":
        os.closerange(0, 4096)
    if how == "close pipes":
        os.closerange(3, 4096)
    if how == "abort":
        os.abort()
    if how == "kill itself":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "fork":
        os.fork()
    if how == "1 MB without newline":
        sys.stdout.write("x" * 1_000_000)
    time.sleep(0.004)
    return {"n": body["n"], "crashes": 0}
"""
DEADLY = {
    "os._exit(0)": "exited with code 0",
    "sys.exit(1)": "exited with code 1",
    "segfault": "killed by SIGSEGV",
    "close everything": "",
    "close pipes": "",
    "abort": "killed by SIGABRT",
    "kill itself": "killed by SIGKILL",
}
HARMLESS = ("fork", "1 MB without newline")


def test_however_a_consumer_ends_only_its_own_message_pays(traffic):
    """Each deadly message is dead after crash.max with the evidence; the good ones beside them are unharmed."""
    config = traffic.config(stage="crash = { max = 2 }")
    with ServiceProcess(config, {"work.py": EXITS}) as service:
        service.start()
        kinds = {}
        hows = [*DEADLY, *HARMLESS] * 2
        for how in hows:
            kinds[traffic.send(1, how=how)[0]] = how
            traffic.send(27)
        sent = time.monotonic()
        traffic.finish()
        took = time.monotonic() - sent
        assert {n for n, how in kinds.items() if how in DEADLY} == traffic.dead.keys()
        assert traffic.repeats() == 0
        for n, properties in traffic.dead.items():
            headers = properties.headers
            assert headers["x-mqworker-reason"] == "crash", headers
            assert headers["x-mqworker-crashes"] == 2, headers
            assert DEADLY[kinds[n]] in headers["x-mqworker-exit"], headers
            assert "peak memory" in headers["x-mqworker-exit"]
            assert f"begin {n} {kinds[n]}" in headers["x-mqworker-exit"]
        print(f"{traffic.sent} messages, {len(traffic.dead)} of them deadly, in {took:.1f} s")
        end(service)


TREE_KILLER = HANDLER.replace(
    "    time.sleep(body",
    "    if body.get('deadly'):\n        os.kill(os.getppid(), signal.SIGKILL)\n        time.sleep(9)\n"
    "    time.sleep(body",
).replace("import os", "import os, signal")


def test_a_message_that_kills_the_tree_ends_alone_and_dead(traffic):
    """It runs isolated after the second death and is dead after two such; everybody else gets a result, uncharged."""
    with ServiceProcess(traffic.config(), {"work.py": TREE_KILLER}) as service:
        service.start()
        traffic.send(200)
        (deadly,) = traffic.send(1, deadly=True)
        traffic.send(400)
        sent = time.monotonic()
        traffic.finish()
        took = time.monotonic() - sent
        assert traffic.dead.keys() == {deadly}
        headers = traffic.dead[deadly].headers
        assert (headers["x-mqworker-reason"], headers["x-mqworker-error-type"]) == ("crash", "TreeDied"), headers
        assert not traffic.charged()
        assert traffic.repeats() <= 3 * PREFETCH
        assert service.stage("work")["restarts"] == 4
        notes = journal(service)
        _, second, *isolated = [note for note in notes if note.n == deadly]
        assert len(isolated) == 2
        for before, death in zip((second, isolated[0]), isolated, strict=True):
            # Consumers of the tree that dies may begin messages until they are killed; new ones need longer for it.
            old = {note.pid for note in notes if note.time <= before.time + 0.1}
            beside = {note.pid: note.sign for note in notes if note.time < death.time and note.pid not in old}
            assert "begin" not in beside.values(), "it runs alone"
        print(f"a killer of trees put aside in {took:.1f} s, {traffic.repeats()} repeated")
        end(service)


@pytest.mark.long
def test_a_stage_in_a_crash_loop_answers_and_recovers_with_fixed_code(traffic):
    """Code that fails in `setup`, or kills each Consumer: crash loop with backoff, until fixed code and a restart."""
    unfit = "class work:\n def setup(self):\n  raise RuntimeError('half deployed')\n def handle(self, body): ...\n"
    broken = "import os\n\n\ndef work(body):\n    os.kill(os.getpid(), 11)\n"
    settings, soon = traffic.config(consumers=2, stage="crash = { max = 100 }"), "ipc.restart_budget:MOST=1"
    with ServiceProcess(settings, {"work.py": HANDLER}, MQWORKER_TEST_TIME=soon) as service:
        service.start()
        for code, words in ((unfit, "half deployed"), (broken, "SIGSEGV")):
            assert service.stop() == 0
            service.write("work.py", code)
            service.start(ready=None)  # a restart of the stage alone would have left the old code at work
            traffic.send(200)  # no Consumer meets one again that has killed before, and is counted as the one to blame
            told = wait_for(lambda: looping(service), 90, "the stage to tell of a crash loop")
            assert words in told["problem"]
            assert service.ask("GET", "/livez")[0] == 200
            assert service.ask("GET", "/readyz")[0] == 503
            assert service.ask("PUT", "/api/v1/stages/work/consumers", {"count": 2})[0] in (200, 202)
            ends = [moment(event) for event in service.events() if event["event"] == "consumer_ended"]
            assert len(ends) < 40, "it does not spin"
            service.write("work.py", HANDLER)
            assert service.cli("restart", "--timeout", "60").returncode == 0
            wait_for(lambda: service.ask("GET", "/readyz")[0] == 200, 20, "the stage to be ready again")
            traffic.finish()
        assert not traffic.dead
        assert traffic.repeats() == 0
        end(service)


def looping(service: ServiceProcess) -> dict | None:
    """Return the stage, if it is in a crash loop; None also while the service starts."""
    with contextlib.suppress(OSError):
        told = service.stage("work")
        return told if told["state"] == "crash loop" else None
    return None
