"""Signals to a whole service, as supervisord, a shell and a terminal send them; and how a burst ends."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.embedded import DEAD, HANDLER, OUTPUT, Client, config, steady
from tests.support.ports import free_port
from tests.support.service import ServiceProcess, gone
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system


def in_hand(service: ServiceProcess, count: int = 1) -> bool:
    """Return whether so many Consumers have begun a message."""
    actual = service.stage("work")["actual"]
    return actual is not None and sum(one["message_seconds"] is not None for one in actual["consumers"]) >= count


def test_term_under_load_drains(service):
    """SIGTERM under load: exit 0, what was in hand is finished, the rest is in the queue, nothing happens twice."""
    running = service(config(), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        for _ in range(2):
            done = client.ready(OUTPUT)
            client.send(800)
            wait_for(lambda done=done: client.ready(OUTPUT) > done + 100, 20, "work to be going on")
            began = time.monotonic()
            assert running.stop() == 0
            print(f"drained in {time.monotonic() - began:.2f} s")
            assert client.ready(OUTPUT) + client.ready() == client.sent
            assert client.ready() > 0
            gone(running)
            running.start()
        client.finish()
    assert running.stop() == 0


def test_two_terms_at_once_are_one(service):
    """A wrapper and its process group that both pass SIGTERM on do not end the drain: what is in hand is finished."""
    running = service(config(), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        client.send(1, seconds=2)
        wait_for(lambda: in_hand(running), 20, "the message to be in hand")
        running.signal(signal.SIGTERM)
        time.sleep(0.05)  # two deliveries of a signal that is pending would be one
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        assert (client.ready(), client.ready(OUTPUT)) == (0, 1)


def test_work_over_the_deadline_is_given_back(service):
    """A message that outlasts the drain deadline: exit 75, and it is back, uncharged; on a second TERM at once."""
    running = service(config(service="drain_deadline = 1"), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        client.send(1, seconds=60)
        wait_for(lambda: in_hand(running), 20, "the long message to be in hand")
        began = time.monotonic()
        assert running.stop() == 75
        assert 1 <= time.monotonic() - began < 50  # it would be over after 60
        gone(running)
        assert (client.ready(), client.ready(OUTPUT), client.ready(DEAD)) == (1, 0, 0)
        running.write("mqworker.toml", config(service="drain_deadline = 120"))
        running.start()
        wait_for(lambda: in_hand(running), 20, "the long message to be in hand")
        first = time.monotonic()
        running.signal(signal.SIGTERM)
        wait_for(lambda: running.events()[-1]["event"] == "draining", 20, "the drain to begin")
        wait_for(lambda: time.monotonic() - first > 0.6, 20, "the second signal to be another one")
        began = time.monotonic()
        running.signal(signal.SIGTERM)
        assert running.wait() == 75
        print(f"second TERM: over after {time.monotonic() - began:.2f} s")
        assert time.monotonic() - began < 50
        gone(running)
        assert (client.ready(), client.ready(OUTPUT), client.ready(DEAD)) == (1, 0, 0)
        (waiting,) = client.results("in")
        assert not [name for name in waiting.properties.headers if name.startswith("x-mqworker-")], "it was charged"


def test_term_while_it_starts(service):
    """SIGTERM at any moment of the start ends it in order: no traceback, nothing left."""
    running = service(config(), {"jobs.py": HANDLER})
    moments = {
        "it exists": running.pids,
        "it hears signals": lambda: listens_for_usr2(running),
        "it starts a Producer": lambda: running.named("mqw-producer"),
        "it starts Consumers": lambda: running.named("mqw-consumer"),
    }
    for what, come in moments.items():
        running.start(ready=None)
        wait_for(come, 20, what)
        assert running.stop() in (0, -signal.SIGTERM), (
            running.log.read_text()
        )  # the signal itself: before Python listens
        gone(running)
    assert "Traceback" not in running.log.read_text()


def test_term_while_user_code_is_imported_or_the_port_is_taken(service):
    """What may take a minute at the start does not delay its end: exit 0 at once, and no tree was started."""
    slow = service(config(), {"jobs.py": "import time\ntime.sleep(60)\n"}).start(ready=None)
    wait_for(lambda: slow.named("mqw-check"), 20, "the import")
    number = free_port()
    with socket.create_server(("127.0.0.1", number)):
        barred = service(config(control=f"port = {number}"), {"jobs.py": HANDLER}).start(ready=None)
        wait_for(lambda: listens_for_usr2(barred), 20, "the service to hear signals")
        for running in (barred, slow):  # the port is waited for no longer than 10 s
            began = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - began < 40
            assert [event["event"] for event in running.events()] == ["starting", "stopped"]
            gone(running)


def listens_for_usr2(service: ServiceProcess) -> bool:
    """Return whether the Service has its handlers installed: SIGUSR2 is the last of them."""
    assert service.process is not None
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGUSR2 - 1) & 1)


def test_tstp_and_cont_pause_and_resume_and_are_forgotten(service):
    """SIGTSTP stops listening without any trace in the desired state; SIGCONT resumes; a restart begins unpaused.

    Each is in the audit, which the restarted service knows.
    """
    running = service(config(), {"jobs.py": HANDLER}).start()
    stored = running.folder / ".mqworker/desired.json"
    before = stored.read_bytes()
    with Client(running) as client:
        running.signal(signal.SIGTSTP)
        paused(running, yes=True)
        client.send(50)
        assert running.stage("work")["desired"]["listening"] is True
        assert stored.read_bytes() == before
        assert client.ready() == 50
        running.signal(signal.SIGCONT)
        paused(running, yes=False)
        client.finish()
        running.signal(signal.SIGTSTP)
        paused(running, yes=True)
        assert running.stop() == 0
        running.start()
        paused(running, yes=False)
        client.send(50)
        client.finish()
        running.signal(signal.SIGCONT)  # as every thaw sends it: changes nothing
        steady(running)
        audit = running.ask("GET", "/api/v1/audit")[1]["records"]
        assert [each["method"] for each in audit] == ["SIGTSTP", "SIGCONT", "SIGTSTP"]
        assert audit[-1]["changes"] == [{"stage": "", "field": "paused", "old": False, "new": True}]
    assert running.stop() == 0


def paused(service: ServiceProcess, *, yes: bool) -> None:
    """Wait until it is reported, and true."""

    def so() -> bool:
        told = service.ask("GET", "/api/v1/status")[1]
        return told["paused"] is yes and told["stages"][0]["actual"]["listening"] is not yes

    wait_for(so, 20, f"paused to be {yes}")


def test_usr2_writes_all_stacks(service):
    """SIGUSR2: the stacks of Service, Producer and each Consumer are in the log, with the handler's line."""
    running = service(config(), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        client.send(2, until="finish")
        wait_for(lambda: in_hand(running, 2), 20, "messages to be in hand")
        expected = set(running.named("mqw-consumer") + running.named("mqw-producer")) | {running.process.pid}
        running.signal(signal.SIGUSR2)

        def told() -> dict[int, str]:
            texts: dict[int, str] = {}
            for event in running.events():
                texts[event["pid"]] = texts.get(event["pid"], "") + event["msg"] + event.get("traceback", "")
            return {pid: text for pid, text in texts.items() if ".py" in text and "line" in text}

        wait_for(lambda: told().keys() >= expected, 20, "all stacks")
        at_work = [pid for pid, text in told().items() if "jobs.py" in text and "handle" in text]
        assert sorted(at_work) == sorted(running.named("mqw-consumer"))
        running.write("finish", "")
        client.finish()
    assert running.stop() == 0


def test_burst_ends_when_all_is_done(service):
    """`run --burst` processes what waits and what was to be retried, and exits with 0."""
    jobs = "from mqworker import Retry\n\n" + HANDLER.replace(
        "    began",
        '    if body.get("again") and message.attempt == 1:\n        raise Retry("later", after=1)\n    began',
    ).replace("body, params", "body, params, message")
    running = service(config(), {"jobs.py": jobs})
    (running.folder / ".mqworker").mkdir()
    with Client(running) as client:
        client.send(300)
        client.send(3, again=True)
        running.start("--burst", ready=None)
        assert running.wait() == 0, running.log.read_text()
        gone(running)
        client.finish(1)
    assert [event["exit_code"] for event in running.events() if event["event"] == "stopped"] == [0]
    running.start("--burst", ready=None)  # nothing to do
    assert running.wait() == 0


def test_burst_waits_for_the_retries_of_an_earlier_run(service):
    """What another Producer has put back to be tried later is part of the work: the burst ends after it, not before."""
    jobs = """\
from mqworker import Retry


def handle(body, message):
    if message.attempt == 1:
        raise Retry("later", after=8)
    return body
"""
    running = service(config(), {"jobs.py": jobs}).start()
    with Client(running) as client:
        client.send(1)
        running.event("retried")
        assert running.stop() == 0
        assert client.ready(OUTPUT) == 0
        running.start("--burst", ready=None)
        assert running.wait() == 0
        assert client.ready(OUTPUT) == 1


def tmux(service: ServiceProcess, *command: str) -> str:
    """Run a command of a private tmux server, whose socket is in the service's folder."""
    env = {name: value for name, value in service.env.items() if name not in ("TMUX", "TMUX_PANE")}
    done = subprocess.run(
        ["tmux", "-f", os.devnull, *command],
        cwd=service.folder,
        env=env | {"TMUX_TMPDIR": str(service.folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_ctrl_c_in_a_terminal_is_one_clean_end(service):
    """Ctrl-C reaches the whole process group: text log, one orderly exit with 0, work in hand done, no traceback."""
    running = service(config().replace('log_format = "json"\n', ""), {"jobs.py": HANDLER})
    shell = f"{sys.executable} -m mqworker run; echo exit-code=$?; sleep 60"
    tmux(running, "new-session", "-d", "-x", "200", "-y", "100", shell)
    try:
        running.wait_ready()
        with Client(running) as client:
            client.send(4, until="finish")
            wait_for(lambda: in_hand(running, 2), 20, "messages to be in hand")
            tmux(running, "send-keys", "C-c")
            running.write("finish", "")
            wait_for(lambda: "exit-code=" in tmux(running, "capture-pane", "-p"), 30, "the end")
            screen = tmux(running, "capture-pane", "-p", "-S", "-200").rstrip()
            assert client.ready(OUTPUT) + client.ready() == 4
            assert client.ready(OUTPUT) >= 2
    finally:
        tmux(running, "kill-server")
    print(screen)
    assert "exit-code=0" in screen
    assert "Traceback" not in screen
    assert "KeyboardInterrupt" not in screen
    assert screen.count("stopped with exit code 0") == 1
    gone(running)
