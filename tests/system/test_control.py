"""A whole service controlled over HTTP: the article's four calls, a thousand calls at once, health, desired state."""

import contextlib
import os
import random
import signal
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.embedded import HANDLER, Client, config, curl, port, put, steady
from tests.support.service import ServiceProcess
from tests.support.waiting import Patience, wait_for

pytestmark = pytest.mark.system

FOUR = ("/startlistening", "/stoplistening", "/startworking", "/stopworking")
EVERY_ORDER = "000100200301101201302102202303103203311121131221231321332223233300"  # each three once
THREADS = 16


def article(state: dict[str, bool], path: str) -> tuple[int, str]:
    """Return what the article's call answers in this state, and change the state."""
    what, wanted = path.removeprefix("/start").removeprefix("/stop"), path.startswith("/start")
    changed, state[what] = state[what] != wanted, wanted
    match path, changed:
        case "/startlistening", _:
            return 200, "listening" if changed else "already listening"
        case "/stoplistening", _:
            return (200, "stopped") if changed else (400, "not running")
        case "/startworking", _:
            return (200, "started working") if changed else (202, "already working")
    return 200, "stopped working"


def footprint(service: ServiceProcess) -> dict[str, Any]:
    """Return everything that could pile up."""
    (producer,) = service.named("mqw-producer")
    pids = [service.process.pid, producer]
    return {
        "processes": sorted(service.pids().values()),
        "descriptors": [service.descriptors(pid) for pid in pids],
        "threads": [len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids],
        "semaphores": [Path(f"/proc/{pid}/maps").read_text().count("/dev/shm/sem.") for pid in pids],  # also unlinked
    }


def lean(service: ServiceProcess, base: dict[str, Any] | None = None) -> bool:
    """Return whether there is no more than at `base`, and only the semaphores of two lanes, eight each."""
    now = footprint(service)
    if now["semaphores"] != [0, 16]:
        return False
    return base is None or all(
        now[key] == base[key] if key == "processes" else all(map(int.__le__, now[key], base[key])) for key in base
    )


@pytest.mark.parametrize("rounds", [20, pytest.param(200, marks=[pytest.mark.long, pytest.mark.release])])
def test_the_articles_calls_in_every_order_and_many_rounds(service, rounds):
    """The four calls give the article's texts and codes in every order of three; many rounds leave nothing behind."""
    running = service(config(), {"jobs.py": HANDLER}).start()
    at = port(running)
    state = {"listening": True, "working": True}
    for number, digit in enumerate(EVERY_ORDER):
        path = FOUR[int(digit)]
        answer = curl(at, "GET" if number % 2 else "POST", path)
        assert (answer.status, answer.body["status"]) == article(state, path), (number, path)
        desired = running.stage("work")["desired"]
        assert {name: desired[name] for name in state} == state
        assert desired["consumers"] == 2

    def one_round(number: int) -> None:
        stops, starts = ["/stoplistening", "/stopworking"], ["/startworking", "/startlistening"]
        if number % 2:
            stops.reverse()
            starts.reverse()
        for path in stops + starts:
            answer = curl(at, "GET", path)
            assert (answer.status, answer.body["status"]) == article(state, path), (number, path)
            if number % 20 == 9:  # else the next call comes while the last one is being carried out
                steady(running)

    for path in ("/startlistening", "/startworking"):
        curl(at, "GET", path)
        article(state, path)
    for number in range(10):
        one_round(number)
    steady(running)
    wait_for(lambda: lean(running), 10, "dead lanes to be freed")
    base = footprint(running)
    began = time.monotonic()
    for number in range(10, rounds):
        one_round(number)
    print(f"{rounds - 10} rounds: {time.monotonic() - began:.1f} s")
    steady(running)
    wait_for(lambda: lean(running, base), 10, f"no more than {base}, there was {footprint(running)}")
    with Client(running) as client:
        client.send(200)
        client.finish()
    assert running.stop() == 0


class Pulse:
    """Calls /livez all the time while entered; records how long each answer took, and each one that was not 200."""

    def __init__(self, ask: Callable[[], int]) -> None:
        self._ask = ask
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.seconds: list[float] = []
        self.late: list[float] = []  # those that took more than 5 s
        self.bad: list[object] = []

    def _run(self) -> None:
        while not self._over.wait(0.04):
            began, patience = time.monotonic(), Patience(5)
            try:
                status = self._ask()
                if status != 200:
                    self.bad.append(status)
            except OSError as error:
                self.bad.append(error)
            self.seconds.append(time.monotonic() - began)
            if patience.over():
                self.late.append(self.seconds[-1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def __str__(self) -> str:
        cut = statistics.quantiles(self.seconds, n=100)
        return (
            f"/livez {len(self.seconds)} times: median {cut[49] * 1000:.1f} ms, 95 % {cut[94] * 1000:.1f} ms, "
            f"99 % {cut[98] * 1000:.1f} ms, longest {max(self.seconds) * 1000:.1f} ms"
        )

    def check(self) -> None:
        """Assert that every call was answered, in less than 5 s."""
        assert not self.bad
        assert not self.late, str(self)


def mixed_calls(seed: int, count: int) -> list[tuple[str, str, Any]]:
    """Return so many control calls: method, path, body."""
    dice = random.Random(seed)
    stage = "/api/v1/stages/work"
    kinds: list[tuple[int, Callable[[], tuple[str, str, Any]]]] = [
        (20, lambda: ("PUT", f"{stage}/listening", {"enabled": dice.random() < 0.5})),
        (20, lambda: ("PUT", f"{stage}/consumers", {"count": dice.randrange(5)})),
        (5, lambda: ("POST", f"{stage}/{dice.choice(['start', 'stop'])}", None)),
        (5, lambda: ("POST", f"{stage}/restart", None)),
        (2, lambda: ("PATCH", f"{stage}/params", {"factor": dice.randrange(9)})),
        (10, lambda: ("PUT", "/api/v1/log-level", {"level": dice.choice(["info", "warning", "debug"])})),
        (10, lambda: (dice.choice(["GET", "POST"]), dice.choice(FOUR), None)),
        (8, lambda: ("GET", "/api/v1/queues", None)),
        (20, lambda: ("GET", dice.choice(["/api/v1/status", stage, f"{stage}/params", "/metrics"]), None)),
    ]
    weights = [weight for weight, _ in kinds]
    return [kind() for _, kind in dice.choices(kinds, weights, k=count)]


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.release)])
def test_hundreds_of_calls_from_sixteen_threads(service, count):
    """Mixed calls at once are all answered, /livez throughout, and finally desired equals actual."""
    running = service(config(), {"jobs.py": HANDLER}).start()
    at = port(running)
    calls = mixed_calls(1, count)
    with Client(running) as client:
        client.send(500)

        def call(asked: tuple[str, str, Any]) -> tuple[tuple[str, str, Any], int, float]:
            began = time.monotonic()
            status, _told = running.ask(*asked, timeout=120)
            return asked, status, time.monotonic() - began

        with (
            Pulse(lambda: curl(at, "GET", "/livez", timeout=30).status) as tcp,
            Pulse(lambda: running.ask("GET", "/livez", timeout=30)[0]) as unix,
            ThreadPoolExecutor(THREADS) as pool,
        ):
            began = time.monotonic()
            answers = list(pool.map(call, calls))
            took = time.monotonic() - began
        patches = [seconds for (method, *_), _, seconds in answers if method == "PATCH"]  # the user's code validates
        slow = sorted(seconds for (method, *_), _, seconds in answers if method != "PATCH")
        print(f"{count} calls in {took:.1f} s, {len(patches)} of them PATCH, at most {max(patches):.3f} s each")
        print(f"others: 99 % below {slow[len(slow) * 99 // 100]:.3f} s, longest {slow[-1]:.3f} s")
        print(f"TCP: {tcp}", f"unix: {unix}", Counter(status for _, status, _ in answers), sep="\n")
        allowed = {"/stoplistening": {200, 400}, "/startworking": {200, 202}}
        for (method, path, _), status, _ in answers:
            right = allowed.get(path, {200} if method == "GET" or path in FOUR else {202})
            if method == "PATCH" or path.endswith(("/restart", "/queues")):  # six at a time, as others must not wait
                right = right | {503}
            assert status in right, (method, path, status)
        tcp.check()
        unix.check()
        stage = steady(running)
        desired, actual = stage["desired"], stage["actual"]
        assert (actual is not None) == desired["running"]
        if actual is not None:
            count = desired["consumers"] if desired["working"] else 0
            at_work = [one for one in actual["consumers"] if one["state"] != "spare"]  # others leave after a switch
            assert len(at_work) == count
            assert actual["listening"] == (desired["listening"] and count > 0)
            assert {consumer["generation"] for consumer in at_work} <= {desired["generation"]}
        running.ask("PUT", "/api/v1/log-level", {"level": "info"})
        for path in ("/startworking", "/startlistening"):
            curl(at, "POST", path)
        put(running, "consumers", {"count": 2})
        put(running, "start", method="POST")
        client.send(100)
        client.finish()
        wait_for(lambda: len(running.named("mqw-consumer")) == 2, 40, "two Consumers")
    assert running.stop() == 0


SLOW_ON_DEMAND = """\
import time
from pathlib import Path

while Path("wait").exists():
    time.sleep(0.01)


def handle(body):
    return body
"""


def test_a_change_counts_as_applied_when_it_is_and_concerns_its_stage_alone(service):
    """A stage whose new Consumer is still starting has not applied its change, whatever is changed elsewhere."""
    other = '[stages.other]\ninput = "other"\njobs = ["slow:handle"]\nconsumers = 1\n'
    running = service(config() + other, {"jobs.py": HANDLER, "slow.py": SLOW_ON_DEMAND}).start()
    steady(running)
    (running.folder / "wait").touch()
    status, told = running.ask("PUT", "/api/v1/stages/other/consumers", {"count": 2})
    assert (status, told["applied"]) == (202, False)
    revision = told["revision"]
    for count in (3, 1):
        put(running, "consumers", {"count": count})
        assert running.stage("other")["applied"] == revision - 1
        assert running.ask("GET", "/api/v1/status")[1]["applied"] == revision - 1
    status, told = running.ask("PUT", "/api/v1/log-level?wait=30", {"level": "warning"})
    assert (status, told["applied"]) == (200, True), "what is logged depends on no Consumer"
    assert running.stage("other")["applied"] < revision
    (running.folder / "wait").unlink()
    wait_for(lambda: running.stage("other")["applied"] >= revision, 20, "the second Consumer to be there")
    running.ask("PUT", "/api/v1/log-level", {"level": "info"})
    assert running.stop() == 0


def switches(service: ServiceProcess) -> tuple[Any, ...]:
    """Return the desired state of the stage, as far as the test below changes it."""
    desired = service.stage("work")["desired"]
    return desired["consumers"], desired["listening"], desired["working"], desired["params"]


def test_desired_state_survives_every_end(service):
    """Consumers, listening and params are the same after SIGTERM and after kill -9."""
    running = service(config("params = { factor = 1 }"), {"jobs.py": HANDLER}).start()
    put(running, "listening", {"enabled": False})
    put(running, "consumers", {"count": 3})
    put(running, "params", {"factor": 7}, method="PATCH")
    wanted = (3, False, True, {"factor": 7})
    assert switches(running) == wanted
    assert running.stop() == 0
    running.start()
    assert switches(running) == wanted
    steady(running)
    assert len(running.named("mqw-consumer")) == 3
    running.signal(signal.SIGKILL)
    running.wait()
    running.start()
    assert switches(running) == wanted
    with Client(running) as client:
        client.send(20)
        assert steady(running)["actual"]["listening"] is False
        assert client.ready() == 20
        put(running, "listening", {"enabled": True})
        assert {result.body["params"]["factor"] for result in client.finish()} == {7}
    assert running.stop() == 0


def test_a_damaged_state_is_put_aside_and_said(service):
    """With desired.json cut at any of several places, the service starts as configured, and keeps the file."""
    running = service(config(), {"jobs.py": HANDLER}).start()
    put(running, "consumers", {"count": 3})
    assert running.stop() == 0
    stored = running.folder / ".mqworker/desired.json"
    whole = stored.read_bytes()
    aside = stored.with_suffix(".damaged")
    for length in (0, 1, len(whole) // 2, len(whole) - 2):
        stored.write_bytes(whole[:length])
        aside.unlink(missing_ok=True)
        running.log.unlink()
        running.start()
        assert running.stage("work")["desired"]["consumers"] == 2
        assert aside.read_bytes() == whole[:length]
        (told,) = [event for event in running.events() if event["event"] == "configuration"]
        assert "desired.json could not be read" in told["msg"]
        assert "desired.damaged" in told["msg"]
        assert running.stop() == 0


def test_a_state_that_cannot_be_read_is_a_sentence(service):
    """desired.json is a folder: exit 78 and what to do, no traceback, and nothing is started or put aside."""
    running = service(config(), {"jobs.py": HANDLER})
    stored = running.folder / ".mqworker/desired.json"
    stored.mkdir(parents=True)
    running.start(ready=None)
    assert running.wait() == 78
    _starting, event = running.events()
    assert event["event"] == "cannot_start"
    assert f"{stored} cannot be read: Is a directory; make it readable" in event["msg"]
    assert "Traceback" not in running.log.read_text()
    assert stored.is_dir()


def test_a_frozen_producer_is_replaced(service):
    """SIGSTOP of the Producer: health still answers, it is killed after its heartbeat deadline, nothing is lost."""
    running = service(config(), {"jobs.py": HANDLER}, MQWORKER_TEST_TIME="service.lifecycle:SILENT=10").start()
    at = port(running)
    with Client(running) as client:
        client.send(1_000)
        wait_for(lambda: client.ready("out") > 100, 20, "work to be going on")
        (frozen,) = running.named("mqw-producer")
        os.kill(frozen, signal.SIGSTOP)
        began = time.monotonic()
        with Pulse(lambda: curl(at, "GET", "/livez", timeout=30).status) as pulse:
            running.event("producer_killed", 40)
            noticed = time.monotonic() - began
            assert running.stage("work")["desired"]["running"]
            wait_for(lambda: set(running.named("mqw-producer")) - {frozen}, 20, "a new Producer")
        pulse.check()
        print(f"a frozen Producer was killed after {noticed:.1f} s; {pulse}")
        running.wait_ready()
        client.send(100)
        wait_for(
            lambda: client.ready() == 0 and len({one.body["n"] for one in client.results()}) == 1_100, 60, "all results"
        )
        assert running.stage("work")["restarts"] == 1
    assert running.stop() == 0


def test_health_on_the_unix_socket_during_a_flood(service):
    """1,500 silent or half-open TCP requests: the unix socket answers throughout, and TCP again afterwards."""
    running = service(config(), {"jobs.py": HANDLER}).start()
    at = port(running)
    with contextlib.ExitStack() as stack:
        for number in range(1_500):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", at))
            if number % 2:
                with contextlib.suppress(OSError):
                    one.send(b"GET /livez HTTP/1.1\r\nHost: ")
        with Pulse(lambda: running.ask("GET", "/livez", timeout=30)[0]) as pulse:
            wait_for(lambda: len(pulse.seconds) >= 100, 60, "a hundred looks")
            assert running.ask("GET", "/api/v1/status")[0] == 200
        pulse.check()
        print(f"during the flood: {pulse}")
    wait_for(lambda: curl(at, "GET", "/livez").status == 200, 20, "TCP to answer again")
    assert running.stop() == 0
