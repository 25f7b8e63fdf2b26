"""The service under a real supervisord with the root's supervisord.conf: kills, stops, hangs; nothing lost or left."""

import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.supervised import ROOT, Supervised
from tests.support.traffic import HANDLER, PREFETCH, Lasts, Traffic, Watcher, journal
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]


@pytest.fixture
def traffic(rabbit):
    with Traffic(rabbit.url()) as made:
        yield made


def more(traffic: Traffic, count: int = 20) -> None:
    """Wait until this many further results have arrived."""
    now = len(traffic.done())
    traffic.until(lambda: len(traffic.done()) >= now + count, 60, "more results")


def finish(service: Supervised, traffic: Traffic, watcher: Watcher) -> None:
    """Every message has its outcome, there was never a second tree, and nothing is left."""
    traffic.finish()
    watcher.check()
    assert not traffic.dead
    assert not traffic.charged()
    service.shut()


@pytest.mark.long
@pytest.mark.parametrize("kills", [3, pytest.param(8, marks=pytest.mark.release)])  # the campaign goes on with it
def test_killed_services_and_killed_supervisords_are_followed_by_one_tree_and_lose_nothing(rabbit, kills):
    """kill -9 of the Service again and again and, on another service beside it, of supervisord."""
    with ThreadPoolExecutor(2) as both:  # they mostly wait
        for ended in [both.submit(kill, rabbit.url(), kills) for kill in (kill_services, kill_supervisords)]:
            ended.result()


def kill_services(url: str, kills: int) -> None:
    """supervisord restarts it, one tree at a time, nothing lost, no orphan."""
    with (
        Traffic(url) as traffic,
        Supervised(traffic.config(), {"work.py": HANDLER}) as service,
        Watcher(service, traffic) as watcher,
    ):
        service.supervise()
        orphans, again = Lasts("Service killed, its tree gone"), Lasts("Service killed, working again")
        for _ in range(kills):
            more(traffic)
            pid = service.running()
            tree = {p for p, name in service.pids().items() if name.startswith("mqw-")}
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda t=tree: not t & service.pids().keys(), 5, "its tree to be gone")
            orphans.since(killed)
            traffic.until(lambda t=tree: set(service.named("mqw-consumer")) - t, 30, "a new tree")
            more(traffic, 1)
            again.since(killed)
        print(orphans, again, f"{traffic.sent} messages, {traffic.repeats()} repeated", sep="\n")
        finish(service, traffic, watcher)
        assert traffic.repeats() <= kills * PREFETCH


def kill_supervisords(url: str, kills: int) -> None:
    """The old tree drains, the new one waits for it; nothing lost, no orphan."""
    with (
        Traffic(url) as traffic,
        Supervised(traffic.config(), {"work.py": HANDLER}) as service,
        Watcher(service, traffic) as watcher,
    ):
        service.supervise()
        ended, again = Lasts("supervisord killed, the old tree ended"), Lasts("supervisord killed, working again")
        for round_ in range(kills):
            more(traffic)
            if round_ == 0:  # the new one has to wait for it
                (long,) = traffic.send(1, until="go")
                traffic.until(lambda n=long: n in {note.n for note in journal(service)}, 20, "long work in hand")
            old = service.pids().keys()
            killed = time.monotonic()
            os.kill(service.supervisor(), signal.SIGKILL)
            service.supervise(None)
            if round_ == 0:
                service.event("waiting")
                service.write("go", "")
            traffic.until(lambda o=old: not o & service.pids().keys(), 20, "the old tree to be gone")
            ended.since(killed)
            traffic.until(lambda o=old: set(service.named("mqw-consumer")) - o, 30, "a new tree")
            more(traffic, 1)
            again.since(killed)
        print(ended, again, f"{traffic.sent} messages, {traffic.repeats()} repeated", sep="\n")
        finish(service, traffic, watcher)
        assert traffic.repeats() == 0, "the old tree drained"


def test_a_stop_finishes_what_is_in_hand_and_gives_the_rest_back(traffic):
    """supervisorctl stop under load drains and exits with 0; start, restart, status and tail work as documented."""
    with Supervised(traffic.config(), {"work.py": HANDLER}) as service, Watcher(service, traffic) as watcher:
        service.supervise()
        more(traffic)
        traffic.send(100, seconds=0.3)
        asked = time.monotonic()
        assert service.ctl("stop", "mqworker") == "mqworker: stopped\n"
        stopping = time.monotonic() - asked
        assert not [name for name in service.pids().values() if name.startswith("mqw-")]
        assert service.info()["exitstatus"] == 0
        assert "stopped: mqworker (exit status 0)" in (service.state / "supervisord.log").read_text()
        assert "STOPPED" in service.ctl("status", "mqworker")
        traffic.pump()
        begun = {note.n for note in journal(service)}
        wait_for(lambda: traffic.pump() or begun == traffic.done(), 10, "all that was begun to have its result")
        assert traffic.ready() == traffic.waiting() > 0, "the rest is back in the queue"
        print(f"stopped in {stopping:.2f} s, {traffic.waiting()} given back")

        assert service.ctl("start", "mqworker") == "mqworker: started\n"
        more(traffic)
        pid = service.running()
        assert service.ctl("restart", "mqworker") == "mqworker: stopped\nmqworker: started\n"
        assert service.running() != pid
        assert "RUNNING" in service.ctl("status", "mqworker")
        more(traffic)
        service.events()  # every line of the log is whole
        finish(service, traffic, watcher)
        assert traffic.repeats() == 0


CHILDREN = HANDLER.replace(
    "    time.sleep(body",
    "    subprocess.Popen(['sh', '-c', 'trap \"\" TERM INT HUP; sleep 600'])\n    time.sleep(body",
).replace("import os", "import subprocess, os")


def test_programs_that_a_handler_started_end_with_the_service(traffic):
    """A stop, and the death of a Consumer, leave none of its programs behind, though they ignore every signal."""
    with Supervised(traffic.config(consumers=2), {"work.py": CHILDREN}) as service:
        service.supervise()
        traffic.send(4)
        traffic.finish()
        assert len(service.named("sh")) == 4
        for pid in service.named("mqw-consumer"):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not service.named("sh") + service.named("sleep"), 5, "orphans of a Consumer to be gone")
        traffic.send(4)
        traffic.finish()
        assert len(service.named("sh")) == 4
        assert service.ctl("stop", "mqworker") == "mqworker: stopped\n"
        assert service.info()["exitstatus"] == 0
        assert not service.named("sh") + service.named("sleep")
        service.shut()


def test_tail_shows_whole_lines(traffic):
    """`supervisorctl tail -f` follows the log, one event per line, from several processes."""
    chatty = HANDLER.replace('    note("end", body)', "    print('line of', body['n'])")
    with Supervised(traffic.config(), {"work.py": chatty}) as service:
        service.supervise()
        command = [ROOT / ".venv/bin/supervisorctl", "-c", service.conf, "tail", "-f", "mqworker"]
        lines: list[str] = []
        with subprocess.Popen(command, env=service.env, stdout=subprocess.PIPE, text=True) as tail:
            try:
                traffic.send(200)
                traffic.finish()
                assert service.cli("scale", "3").returncode == 0
                for line in tail.stdout:
                    lines.append(line)
                    if "SetConsumers" in line:
                        break
            finally:
                tail.kill()
        assert lines.pop(0) == "==> Press Ctrl-C to exit <==\n"
        events = [json.loads(line) for line in lines[1:]]  # it begins with the last 1,600 bytes
        assert len({event["pid"] for event in events if event["event"] == "output"}) > 1
        service.shut()


IMPATIENT = """\
import sys

from mqworker import watchdog

watchdog.GRACE, watchdog.MISSES = 1.0, 3
ask = watchdog.check_alive


def check_alive(address):
    why = ask(address)
    watchdog.log("it answers" if not why else "it is silent")
    return why


watchdog.check_alive = check_alive
sys.exit(watchdog.main())
"""


@pytest.mark.long
def test_a_frozen_service_is_killed_by_the_watchdog_and_runs_again(traffic):
    """A service that misses one check is left alone; one that stays silent is killed, and works again."""
    with Supervised(traffic.config(), {"work.py": HANDLER, "impatient.py": IMPATIENT}) as service:
        conf = service.conf.read_text()
        assert "-m mqworker.watchdog" in conf
        conf = conf.replace("-m mqworker.watchdog", f"{service.folder}/impatient.py")
        service.conf.write_text(conf.replace("events=TICK_5", "events=TICK_5,REMOTE_COMMUNICATION"))
        service.supervise()
        pid = service.running()
        told = service.state / "watchdog.log"
        service.tick()
        wait_for(lambda: "it answers" in told.read_text(), 30, "a look of the watchdog")
        wait_for(lambda: service.info()["now"] - service.info()["start"] > 2, 20, "the watchdog to count misses")
        os.kill(pid, signal.SIGSTOP)
        service.tick()
        wait_for(lambda: "it is silent" in told.read_text(), 30, "a miss")
        os.kill(pid, signal.SIGCONT)
        service.tick()
        wait_for(lambda: "it answers" in told.read_text().rpartition("it is silent")[2], 30, "a later look")
        more(traffic)
        assert service.running() == pid, "a service that was slow for a while goes on"
        assert "killing" not in told.read_text()
        os.kill(pid, signal.SIGSTOP)
        frozen = time.monotonic()
        for _ in range(3):
            service.tick()
        service.running(but=pid, deadline=60)
        print(f"frozen service running again after {time.monotonic() - frozen:.1f} s")
        assert "killing it" in told.read_text()
        more(traffic)
        traffic.finish()
        assert traffic.repeats() <= PREFETCH
        service.shut()
