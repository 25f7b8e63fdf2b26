"""Sources in a whole service: every item once without faults, after a death the last ones again with the same ids."""

import json
import os
import re
import signal
import time
from collections import Counter
from datetime import datetime

import pytest

from tests.support.embedded import Client as FileClient
from tests.support.foreign import Client as RabbitClient
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

CODE = """\
import os
import time
from pathlib import Path

from mqworker import Item

HERE = Path.cwd()


def rows(position, params, log):
    log.info("begins after %s", position)
    last = params["last"]
    for n in range((position or 0) + 1, last + 1):
        while (HERE / "hold").exists() and n > int((HERE / "hold").read_text() or 0):
            yield None
            time.sleep(0.01)
        if params.get("pace"):
            time.sleep(params["pace"])
        yield Item({"n": n}, position=n)


def quiet():
    try:
        while True:
            yield None
            time.sleep(0.02)
    finally:
        (HERE / "closed").write_text("yes")


def stuck():
    yield {"n": 0}
    time.sleep(3600)


def bad(position):
    for n in range((position or 0) + 1, 1000):
        if n == 5 and not (HERE / "mended").exists():
            raise ValueError("row 5 cannot be read")
        yield Item({"n": n}, position=n)


def tick(due, params):
    return {"due": due.timestamp()}


def ticks(due):
    yield {"n": 1}
    yield {"n": 2}


def handle(body):
    return body
"""


def config(sources: str, *, url: str = "", queue: str = "in", stage: str = "") -> str:
    """Return a configuration with one stage, whose Consumers take nothing."""
    broker = f'[broker]\nurl = "{url}"\n' if url else ""
    return (
        f'[service]\nlog_format = "json"\n[control]\nport = 0\n{broker}[stages.work]\ninput = "{queue}"\n'
        f'jobs = ["jobs:handle"]\nconsumers = 1\noutput = {{ queue = "{queue}.out" }}\n{stage}\n{sources}\n'
    )


def source(name: str, job: str, *lines: str) -> str:
    return "\n".join([f"[sources.{name}]", f'job = "jobs:{job}"', 'into = "work"', *lines, ""])


def state(service, name: str) -> dict:
    status, told = service.ask("GET", f"/api/v1/sources/{name}")
    assert status == 200, told
    return told


def until(service, name: str, wanted, deadline: float = 60) -> dict:
    return wait_for(lambda: (told := state(service, name)) and wanted(told) and told, deadline, f"{name}: {wanted}")


def finished(told: dict) -> bool:
    return told["state"] == "finished"


class Broker:
    """What is in the queues of a test, on either broker."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.kind = request.param
        self.url = ""
        self.queue = "in"
        if self.kind == "rabbitmq":
            self.rabbit = request.getfixturevalue("rabbit")
            self.url, self.queue = self.rabbit.url(), request.getfixturevalue("queue")

    def config(self, sources: str, stage: str = "") -> str:
        return config(sources, url=self.url, queue=self.queue, stage=stage)

    def results(self, service) -> list[tuple[str, dict]]:
        """Return (id, body) of all messages in the output queue."""
        return self.messages(service, f"{self.queue}.out")

    def messages(self, service, queue: str) -> list[tuple[str, dict]]:
        if self.kind == "rabbitmq":
            with RabbitClient(self.url) as client:
                found = []
                while (message := client.channel.basic_get(queue))[0] is not None:
                    found.append((message[1].message_id, json.loads(message[2])))
                return found
        with FileClient(service) as client:
            return [(each.properties.message_id, each.body) for each in client.results(queue)]

    def ready(self, service, queue: str) -> int:
        if self.kind == "rabbitmq":
            found = self.rabbit.queue(queue)
            return 0 if found is None else found["messages"]
        with FileClient(service) as client:
            return client.ready(queue)

    def clean(self) -> None:
        if self.kind == "rabbitmq":
            with RabbitClient(self.url) as client:
                for name in ("rows", "more", "quiet", "stuck", "bad", "tick", "ticks"):
                    client.channel.queue_delete(f"{self.queue}.source.{name}")


RABBIT = pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)
RABBIT_TOO = pytest.param("rabbitmq", marks=[pytest.mark.rabbitmq, pytest.mark.release])
both_brokers = pytest.mark.parametrize("broker", ["embedded", RABBIT], indirect=True)
any_broker = pytest.mark.parametrize("broker", ["embedded", RABBIT_TOO], indirect=True)  # what no broker decides


@pytest.fixture
def broker(request):
    """The broker that the test names."""
    made = Broker(request)
    yield made
    made.clean()


@both_brokers
def test_every_row_once_and_in_order(service, broker):
    """Without faults; the generator then has finished, and begins again only when it is told to, after its position."""
    running = service(broker.config(source("rows", "rows", "params = { last = 3000 }")), {"jobs.py": CODE}).start()
    told = until(running, "rows", finished)
    assert told["items"] == 3000
    wait_for(lambda: broker.ready(running, f"{broker.queue}.out") == 3000, 60, "all results")
    results = broker.results(running)
    assert [message_id for message_id, _ in results] == [f"rows:{n}" for n in range(1, 3001)]
    assert [body["n"] for _, body in results] == list(range(1, 3001))
    done = running.cli("sources", "start", "rows")
    assert done.returncode == 0, done.stderr
    told = until(running, "rows", finished)
    assert (told["items"], told["restarts"]) == (3000, 0)
    assert running.event("source_finished")
    assert any("begins after 3000" in event["msg"] for event in running.events())


@both_brokers
def test_kills_of_a_source_repeat_only_the_last_items_with_their_ids(service, broker):
    """Every row arrives; those that come twice are the last thousand before a kill, with their ids; embedded none."""
    lines = "params = { last = 3000, pace = 0.001 }"
    running = service(broker.config(source("rows", "rows", lines)), {"jobs.py": CODE}).start()
    kills = 0
    while state(running, "rows")["state"] != "finished":
        before = state(running, "rows")["items"]
        if kills < 3:
            until(running, "rows", lambda told, before=before: finished(told) or told["items"] > before + 200)
            for pid in running.named("mqw-source"):
                os.kill(pid, signal.SIGKILL)
                kills += 1
        else:
            until(running, "rows", finished)
    assert kills == 3
    wait_for(lambda: broker.ready(running, broker.queue) == 0, 60, "the input to be empty")
    wait_for(lambda: broker.ready(running, f"{broker.queue}.out") >= 3000, 60, "all results")
    counts = Counter(message_id for message_id, _ in broker.results(running))
    assert set(counts) == {f"rows:{n}" for n in range(1, 3001)}
    assert sum(counts.values()) - 3000 <= kills * 1000
    if broker.kind == "embedded":
        assert sum(counts.values()) == 3000


@both_brokers
def test_the_queue_never_exceeds_the_mark(service, broker):
    """Two sources of one stage, one of them slow, that nobody consumes for a while: they wait, and then go on."""
    both = source("rows", "rows", "max_backlog = 300", "params = { last = 1000 }")
    both += source("more", "rows", "max_backlog = 300", "params = { last = 300, pace = 0.002 }")
    running = service(broker.config(both), {"jobs.py": CODE, "hold": "0"}).start()
    assert running.ask("PUT", "/api/v1/stages/work/listening?wait=20", {"enabled": False})[0] == 200
    running.write("hold", "1000000")
    until(running, "rows", lambda told: told["state"] == "held back")
    most = 0
    for _ in range(100):
        most = max(most, broker.ready(running, broker.queue))
    assert 200 <= most <= 300
    assert running.ask("PUT", "/api/v1/stages/work/listening?wait=20", {"enabled": True})[0] == 200
    until(running, "rows", finished)
    until(running, "more", finished)
    wait_for(lambda: broker.ready(running, f"{broker.queue}.out") == 1300, 60, "all results")


@any_broker
def test_a_generator_that_raises_goes_on_when_it_is_mended(service, broker):
    """What came before is published, nothing is skipped, the crash loop is told; `start` begins at once."""
    running = service(
        broker.config(source("bad", "bad")), {"jobs.py": CODE}, MQWORKER_TEST_TIME="ipc.restart_budget:MOST=1"
    )
    running.start(ready=None)
    told = wait_for(
        lambda: "bad" in _names(running) and (t := state(running, "bad"))["state"] == "crash loop" and t, 60, ""
    )
    assert told["problem"] == "ValueError: row 5 cannot be read"
    code, answer = running.ask("GET", "/readyz")
    assert code == 503
    assert "source bad: crash loop: ValueError: row 5" in answer["detail"]
    running.write("mended", "")
    assert running.cli("sources", "start", "bad").returncode == 0
    until(running, "bad", finished)
    wait_for(lambda: broker.ready(running, f"{broker.queue}.out") == 999, 60, "all results")
    assert [body["n"] for _, body in broker.results(running)] == list(range(1, 1000))
    assert running.ask("GET", "/readyz")[0] == 200


def _names(running) -> list[str]:
    try:
        code, told = running.ask("GET", "/api/v1/sources")
    except OSError:
        return []
    return [one["name"] for one in told["sources"]] if code == 200 else []


def test_a_stop_closes_the_generator_and_holds_over_a_restart(service):
    """Its `finally` runs; a source that was stopped stays so until somebody starts it."""
    running = service(config(source("quiet", "quiet")), {"jobs.py": CODE}).start()
    until(running, "quiet", lambda told: told["state"] == "running")
    done = running.cli("sources", "stop", "quiet")
    assert done.returncode == 0, done.stderr
    assert (running.folder / "closed").read_text() == "yes"
    assert state(running, "quiet")["state"] == "stopped"
    assert not running.named("mqw-source")
    assert running.stop() == 0
    running.start()
    assert state(running, "quiet")["state"] == "stopped"
    assert running.cli("sources", "start", "quiet").returncode == 0
    assert state(running, "quiet")["state"] == "running"


def test_the_service_ends_in_time_with_a_generator_that_never_yields(service):
    """After its four seconds it is killed, and the service ends with 0."""
    running = service(config(source("stuck", "stuck")), {"jobs.py": CODE}).start()
    until(running, "stuck", lambda told: told["items"] == 1)
    assert running.stop(20) == 0
    assert running.event("source_stuck")


@any_broker
def test_ticks_come_and_a_run_can_be_asked_for(service, broker):
    """Each tick once, with its time as id; a run has an id of its own and moves no tick; both over HTTP and CLI."""
    both = source("tick", "tick", 'every = "0.5 s"') + source("ticks", "ticks", 'cron = "0 0 1 1 *"')
    running = service(broker.config(both), {"jobs.py": CODE}).start()
    until(running, "tick", lambda told: told["actual"] and told["actual"]["ticks"] >= 4)
    assert running.cli("sources", "stop", "tick").returncode == 0
    done = running.cli("sources", "run", "ticks", "--json")
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert run["items"] == 2
    assert state(running, "ticks")["actual"]["due"].endswith("-01-01T00:00:00.000Z")
    code, told = running.ask("POST", "/api/v1/sources/tick/run")
    assert code == 409
    assert "is stopped here" in told["detail"]
    wait_for(lambda: broker.ready(running, broker.queue) == 0, 30, "the input to be empty")
    results = dict(broker.results(running))
    assert results.pop(f"ticks:run-{run['id']}.1") == {"n": 1}
    assert results.pop(f"ticks:run-{run['id']}.2") == {"n": 2}
    assert len(results) >= 4
    for message_id, body in results.items():
        assert re.fullmatch(r"tick:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.500)?Z", message_id)
        assert body["due"] % 0.5 == 0
    dues = sorted(body["due"] for body in results.values())
    assert len(set(dues)) == len(dues)


@both_brokers
def test_one_of_two_services_runs_a_source_and_the_other_takes_over(service, broker):
    """The second stands by; when the first is killed it goes on after the stored position."""
    lines = "params = { last = 1000000, pace = 0.002 }"
    first = service(broker.config(source("rows", "rows", lines)), {"jobs.py": CODE}).start()
    until(first, "rows", lambda told: told["items"] > 100)
    url = {} if broker.url else {"MQWORKER_BROKER__URL": f"sqlite:///{first.folder}/.mqworker/broker.db"}
    second = service(broker.config(source("rows", "rows", lines)), {"jobs.py": CODE}, **url).start()
    until(second, "rows", lambda told: told["state"] == "standby")
    code, told = second.ask("GET", "/readyz")
    assert code == 200, told
    assert state(second, "rows")["items"] == 0
    first.signal(signal.SIGKILL)
    until(second, "rows", lambda told: told["items"] > 100)
    started = second.event("source_started")
    assert int(started["position"]) > 100
    assert second.cli("sources", "stop", "rows").returncode == 0


def test_edited_code_is_run_when_it_is_told_and_bad_code_leaves_the_old_at_work(service):
    """At HUP and at `start`; what cannot be imported is refused, told, and the source goes on."""
    running = service(config(source("quiet", "quiet")), {"jobs.py": CODE}).start()
    until(running, "quiet", lambda told: told["state"] == "running")
    pid = state(running, "quiet")["actual"]["pid"]
    running.write("jobs.py", CODE + "\nraise RuntimeError('an unfinished edit')\n")
    done = running.cli("sources", "start", "quiet")
    assert done.returncode == 78, (done.returncode, done.stderr)
    assert "an unfinished edit" in done.stderr
    running.signal(signal.SIGHUP)
    told = until(running, "quiet", lambda told: told["refused"])
    assert "an unfinished edit" in told["refused"]
    assert told["actual"]["pid"] == pid
    running.write("jobs.py", CODE.replace('write_text("yes")', 'write_text("edited")'))
    assert running.cli("sources", "start", "quiet").returncode == 0
    told = until(running, "quiet", lambda told: told["state"] == "running" and not told["refused"])
    assert told["actual"]["pid"] != pid
    assert running.cli("sources", "stop", "quiet").returncode == 0
    assert (running.folder / "closed").read_text() == "edited"


def test_a_source_that_cannot_be_imported_keeps_the_service_from_starting(service):
    """As for a job: 78, with the name of the source; `check` tells the same."""
    running = service(config(source("rows", "rowz")), {"jobs.py": CODE}).start(ready=None)
    assert running.wait(30) == 78
    assert "did you mean 'rows'" in running.log.read_text()
    done = running.cli("check")
    assert done.returncode == 78
    assert "source rows" in done.stdout


def test_check_tells_the_next_ticks(service):
    """Three of them, with their zone."""
    lines = ('cron = "0 6 * * *"', 'timezone = "Europe/Berlin"')
    running = service(config(source("tick", "tick", *lines)), {"jobs.py": CODE})
    done = running.cli("check")
    assert done.returncode == 0, done.stdout
    assert len(re.findall(r"\d{4}-\d\d-\d\d 06:00:00", done.stdout)) == 3
    assert "(Europe/Berlin)" in done.stdout


def test_what_is_shown(service):
    """Status, list, metrics: state, position and counters of each source."""
    running = service(config(source("rows", "rows", "params = { last = 10 }")), {"jobs.py": CODE}).start()
    until(running, "rows", finished)
    shown = running.cli("status").stdout
    assert re.search(r"^rows +work +finished", shown, re.MULTILINE), shown
    assert "rows" in running.cli("sources", "show", "rows").stderr
    listed = json.loads(running.cli("sources", "list", "--json").stdout)
    assert [(one["name"], one["kind"], one["items"]) for one in listed] == [("rows", "generator", 10)]
    code, metrics = running.ask("GET", "/metrics")
    assert code == 200
    assert 'mqworker_source_items_total{source="rows"} 10.0' in metrics
    assert 'mqworker_source_running{source="rows"} 0.0' in metrics
    assert running.ask("GET", "/api/v1/sources/nobody")[0] == 404
    assert running.ask("POST", "/api/v1/sources/rows/run")[0] == 409


def test_a_burst_ends_when_the_generators_have_finished(service):
    """And all that they yielded is computed; schedules do not run."""
    both = source("rows", "rows", "params = { last = 500 }") + source("tick", "tick", 'every = "0.1 s"')
    running = service(config(both), {"jobs.py": CODE})
    running.start("--burst", ready=None)
    assert running.wait(90) == 0
    with FileClient(running) as client:
        assert sorted(each.body["n"] for each in client.results("in.out")) == list(range(1, 501))


@both_brokers
def test_a_purged_position_begins_anew(service, broker):
    """Only while the source is stopped; the queue is among those that are listed."""
    lines = "params = { last = 100_000, pace = 0.05 }"
    running = service(broker.config(source("rows", "rows", lines)), {"jobs.py": CODE}).start()
    until(running, "rows", lambda told: told["items"] > 5)
    name = f"{broker.queue}.source.rows"
    listed = running.ask("GET", "/api/v1/queues")[1]["queues"]
    assert [(one["role"], one["messages"]) for one in listed if one["name"] == name] == [("position", 1)]
    done = running.cli("queues", "purge", name, "--yes")
    assert "stop it first" in done.stderr, done
    assert running.cli("sources", "stop", "rows").returncode == 0
    assert running.cli("queues", "purge", name, "--yes").returncode == 0
    assert running.cli("sources", "start", "rows").returncode == 0
    wait_for(lambda: Counter(one for one, _ in broker.results(running))["rows:1"] == 2, 30, "the first row again")
    assert running.cli("sources", "stop", "rows").returncode == 0


@pytest.mark.long
def test_a_schedule_whose_clock_jumps(service):
    """Forward an hour: what was between is missed. Back ten minutes: it waits, and no tick comes twice."""
    running = service(config(source("tick", "tick", 'every = "0.5 s"')), {"jobs.py": CODE, "clock": "0"})
    running.env["MQWORKER_TEST_CLOCK"] = str(running.folder / "clock")
    running.start()
    until(running, "tick", lambda told: told["actual"] and told["actual"]["ticks"] >= 3)
    running.write("clock", "3600")
    told = until(running, "tick", lambda told: told["missed"] >= 1000)
    assert running.event("tick_missed")["missed"] >= 1000
    before = told["actual"]["ticks"]
    until(running, "tick", lambda told: told["actual"]["ticks"] >= before + 3)
    running.write("clock", "3000")
    told = until(running, "tick", lambda told: told["actual"]["last_tick"]["due"] < told["actual"]["due"])
    stands = until(running, "tick", lambda told: told["state"] == "waiting")["actual"]["ticks"]
    pid = running.named("mqw-source")[0]
    os.kill(pid, signal.SIGKILL)  # the next life waits too
    told = until(
        running, "tick", lambda told: told["actual"] and told["state"] == "waiting" and told["actual"]["pid"] != pid
    )
    assert told["actual"]["ticks"] == 0, stands
    running.write("clock", "3610")
    until(running, "tick", lambda told: told["actual"]["ticks"] >= 2)
    assert running.cli("sources", "stop", "tick").returncode == 0
    with FileClient(running) as client:
        wait_for(lambda: client.ready("in") == 0, 30, "an empty input")
        ids = [each.properties.message_id for each in client.results("in.out")]
    assert len(ids) == len(set(ids))


@pytest.mark.long
def test_schedules_at_both_ends_of_summer_time(service):
    """A fixed time that is skipped comes behind the gap, one that comes twice once; a wildcard goes by elapsed time."""
    where = 'timezone = "Europe/Berlin"'
    both = source("fixed", "tick", 'cron = "30 2 * * *"', where) + source(
        "half", "tick", 'cron = "*/30 * * * *"', where
    )
    running = service(config(both), {"jobs.py": CODE, "clock": "0"})
    running.env["MQWORKER_TEST_CLOCK"] = str(running.folder / "clock")

    def jump(to: str) -> None:
        running.write("clock", str(round(datetime.fromisoformat(f"2026-{to}Z").timestamp() - time.time())))

    def done(name: str) -> str:
        last = (state(running, name)["actual"] or {}).get("last_tick")
        return "" if last is None else last["due"].removeprefix("2026-")[:11]

    jump("03-29T00:45:00")
    running.start()
    for name in ("fixed", "half"):
        until(running, name, lambda told: told["state"] == "waiting")
    expected: dict[str, list[str]] = {"fixed": [], "half": []}
    for tick, names in (
        *(("03-29T01:00", ("fixed", "half")), ("03-29T01:30", ("half",))),
        *(("10-25T00:30", ("fixed", "half")), ("10-25T01:00", ("half",)), ("10-25T01:30", ("half",))),
    ):
        jump(f"{tick}:01")
        for name in names:
            wait_for(lambda name=name, tick=tick: done(name) == tick, 30, f"{name} at {tick}")
            expected[name].append(f"{name}:2026-{tick}:00Z")
    missed = {name: running.ask("GET", f"/api/v1/sources/{name}")[1]["missed"] for name in expected}
    assert missed == {"fixed": 209, "half": 1000}, "between spring and autumn; they are counted up to 1,000"
    with FileClient(running) as client:
        wanted = sorted(expected["fixed"] + expected["half"])
        ids = wait_for(lambda: len(found := client.results("in.out")) >= len(wanted) and found, 30, "the results")
    assert sorted(each.properties.message_id for each in ids) == wanted


def test_ticks_that_fail_are_tried_again_in_their_time(service):
    """One that raises is tried again, then missed, and the next one comes all the same.

    One that has published before it fails yields the same ids again, and each try waits longer: items without an end
    are no progress.
    """
    failing = "def failing(due):\n    if not (HERE / 'mended').exists():\n        raise OSError('down')\n"
    half = "def half(due):\n    yield {'n': 1}\n    raise OSError('down')\n"
    both = source("failing", "failing", 'every = "3 s"') + source("half", "half", 'every = "20 s"')
    running = service(config(both), {"jobs.py": f"{CODE}\n\n{failing}\n\n{half}"}).start()
    running.event("tick_failed", 30)
    told = until(running, "failing", lambda told: told["restarts"] >= 2)
    assert "OSError: down" in told["problem"]
    running.write("mended", "")
    until(running, "failing", lambda told: told["actual"] and told["actual"]["ticks"] >= 1)
    until(running, "half", lambda told: told["state"] == "backoff" and told["restarts"] >= 3)
    with FileClient(running) as client:
        wait_for(lambda: client.ready("in.out") >= 3, 30, "what each try has published")
        ids = [one for each in client.results("in.out") if (one := each.properties.message_id).startswith("half:")]
    assert max(Counter(ids).values()) >= 3
