"""The first ten minutes with mqworker, as a user types them (README): each step runs as documented."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from supervisor import childutils

from mqworker import watchdog
from mqworker.address import Address
from mqworker.exits import Exit
from tests.support.cli import MQWORKER, end, environment, mqworker, service
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(short_path) -> Path:
    """Where the user types."""
    return short_path


def demo_environment(folder: Path) -> dict[str, str]:
    """Make the demo create its throw-away folder below `folder`."""
    return environment({"TMPDIR": str(folder)})


def processes_of(folder: Path) -> list[int]:
    """Return every process that works in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if entry.readlink().is_relative_to(folder):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def test_minute_0_the_demo_ends_by_itself_and_accounts_for_everything(folder):
    """`mqworker demo --messages N`: exit 0, all accounted for, the bad ones listed, and what to type next."""
    with socket.socket() as taken:  # port 5002 may be in use: another one is chosen, and told
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 5002))
            taken.listen()
        except OSError:
            pass  # somebody else has it already
        done = subprocess.run(
            [*MQWORKER, "demo", "--messages", "24"],
            cwd=folder,
            env=demo_environment(folder),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert done.returncode == Exit.OK, done.stderr
    url = re.search(r"control +(http://127\.0\.0\.1:\d+)", done.stdout)
    assert url is not None
    assert not url[1].endswith(":5002")
    assert "24 messages in" in done.stdout
    assert "21 done, 3 failed: all accounted for" in done.stdout
    for reason, label in (("undecodable", "not JSON"), ("reject", "no tariff"), ("reject", "final charge")):
        assert re.search(rf"[0-9a-f-]{{36}}  {reason} \(bad: {label}", done.stdout)
    assert re.search(r"Look further: .* dlq show [0-9a-f]{16}", done.stdout)
    assert processes_of(folder) == []


def test_minute_0_ctrl_c_ends_the_demo_within_its_deadline(folder):
    """Without --messages it runs until Ctrl-C; its control address answers meanwhile; then it lists what failed."""
    process = subprocess.Popen(
        [*MQWORKER, "demo"],
        cwd=folder,
        env=demo_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        told = "".join(line for line, _ in zip(process.stdout, range(8), strict=False))
        assert "first " in told
        url = re.search(r"control +(http://\S+)", told)
        assert url is not None
        status = mqworker("status", "--url", url[1], "--json", cwd=folder)
        assert json.loads(status.stdout)["state"] == "running"
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) == Exit.OK
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        process.stdout.close()
    assert "all accounted for" in rest
    assert "Traceback" not in rest
    assert processes_of(folder) == []


@pytest.fixture
def project(folder) -> Path:
    """Minute 3: `mqworker init primes`."""
    assert mqworker("init", "primes", cwd=folder).returncode == Exit.OK
    return folder / "primes"


def test_minutes_3_to_6_init_check_run_send_fail_fix_replay(project):
    """A project from nothing: checked, run, a result on stdout; a bug, its dead letter, the fix, the replay, 0 left."""
    assert mqworker("check", cwd=project, env={"MQWORKER_CONTROL__PORT": "0"}).returncode == Exit.OK
    with service(project, env={"MQWORKER_STAGES__PRIMES__RETRY__MAX_ATTEMPTS": "1"}) as process:
        sent = mqworker("send", '{"n": 1000000}', "--wait", cwd=project)
        assert sent.returncode == Exit.OK, sent.stderr
        assert json.loads(sent.stdout) == {"prime": 999983}
        assert re.search(r"after .*s, computed in .*; message id [0-9a-f-]{36}", sent.stderr)

        code = project / "primes.py"
        good = code.read_text()
        code.write_text(good.replace('n = body["n"]', 'n = body["m"]'))
        assert mqworker("restart", cwd=project).returncode == Exit.OK
        failed = mqworker("send", '{"n": 20}', "--wait", cwd=project)
        assert failed.returncode == Exit.INTERNAL
        assert "KeyError" in failed.stderr
        assert failed.stdout == ""

        letters = json.loads(mqworker("dlq", "list", "--json", cwd=project).stdout)["primes"]
        assert [letter["reason"] for letter in letters] == ["error"]
        shown = mqworker("dlq", "show", letters[0]["id"], cwd=project).stdout
        assert "KeyError" in shown
        assert "primes.py" in shown
        assert '{"n": 20}' in shown

        code.write_text(good)
        assert mqworker("restart", cwd=project).returncode == Exit.OK
        assert mqworker("dlq", "replay", "--all", cwd=project).returncode == Exit.OK
        wait_for(lambda: ready_in(project, "primes.results") == 2, 20, "the replayed message is done")
        assert ready_in(project, "primes.dlq") == 0
        assert "0 dead" in mqworker("dlq", "list", cwd=project).stderr
        assert end(process) == Exit.OK


def ready_in(project: Path, queue: str) -> int:
    """Return the messages in a queue, as `queues list` shows them."""
    rows = json.loads(mqworker("queues", "list", "--json", cwd=project).stdout)
    return next(row.get("messages", 0) for row in rows if row["name"] == queue)


def test_every_steering_verb_is_applied_when_it_returns(project):
    """pause, resume, scale, stop, start, restart and params: `status` shows each as soon as it has returned."""

    def stage() -> dict:
        [view] = json.loads(mqworker("status", "--json", cwd=project).stdout)["stages"]
        return view

    def told(*arguments: str) -> None:
        done = mqworker(*arguments, cwd=project)
        assert done.returncode == Exit.OK, done.stderr

    def consumers() -> int:
        return len([one for one in stage()["actual"]["consumers"] if one["state"] in ("idle", "busy")])

    with service(project):
        told("pause")
        assert stage()["actual"]["link"]["consuming"] is False
        told("resume")
        assert stage()["actual"]["link"]["consuming"] is True
        told("scale", "1")
        assert consumers() == 1
        told("scale", "+2")
        assert consumers() == 3
        told("params", "set", "largest_n=100")
        assert {one["generation"] for one in stage()["actual"]["consumers"]} == {stage()["desired"]["generation"]}
        refused = mqworker("params", "set", "largest_n=1", cwd=project)
        assert (refused.returncode, "at least 2" in refused.stderr) == (Exit.USAGE, True)
        told("params", "rollback")
        assert stage()["desired"]["params"] == {}
        told("stop")
        assert stage()["state"] == "stopped"
        told("start")
        assert stage()["state"] == "running"
        assert "live" in mqworker("config", "show", "--origin", cwd=project).stdout


def test_send_counts_what_was_sent(project):
    """--count, stdin and --rate send each message once; a line that is not JSON ends it with the number sent."""
    with service(project):
        assert mqworker("pause", cwd=project).returncode == Exit.OK
        assert "30 sent" in mqworker("send", '{"n": 2}', "--count", "30", "--rate", "200", cwd=project).stderr
        lines = mqworker("send", cwd=project, stdin='{"n": 3}\n\n{"n": 4}\nnonsense\n{"n": 5}\n')
        assert lines.returncode == Exit.USAGE
        assert "2 sent" in lines.stderr
        assert "line 4" in lines.stderr
        assert ready_in(project, "primes") == 32


def test_ctrl_c_ends_a_long_send_with_a_count(project):
    """SIGINT during `send --count` gives exit 130, no traceback, and the number sent."""
    with service(project):
        process = subprocess.Popen(
            [*MQWORKER, "send", '{"n": 2}', "--count", "100000", "--rate", "50"],
            cwd=project,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_for(lambda: ready_in(project, "primes.results") > 0, 20, "something was sent")
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 130
    assert re.search(r"interrupted: \d+ of 100000 sent", told)
    assert "Traceback" not in told


def test_looking_into_logs_queues_and_dead_letters(project):
    """logs, queues purge and delete, dlq export and drop: each prints its data on stdout and does what it states."""
    with service(project, env={"MQWORKER_STAGES__PRIMES__RETRY__MAX_ATTEMPTS": "1"}):
        for body in ('{"n": 1}', '{"n": 0}', '{"n": 20}'):
            mqworker("send", body, "--wait", cwd=project)
        logs = [json.loads(line) for line in mqworker("logs", "-n", "100", "--json", cwd=project).stdout.splitlines()]
        assert "started" in [line["event"] for line in logs]
        assert "running: control at" in mqworker("logs", "-n", "100", cwd=project).stdout
        assert "primes:largest" in mqworker("jobs", "list", cwd=project).stdout
        assert "slot  pid" in mqworker("status", "--stage", "primes", cwd=project).stdout

        bodies = mqworker("dlq", "export", "--bodies", cwd=project).stdout
        assert bodies.splitlines() == ['{"n": 1}', '{"n": 0}']
        whole = [json.loads(line) for line in mqworker("dlq", "export", cwd=project).stdout.splitlines()]
        assert {letter["reason"] for letter in whole} == {"error"}
        assert mqworker("dlq", "export", "--all", cwd=project).stdout.count("\n") == 2
        assert mqworker("dlq", "export", whole[0]["id"], "--bodies", cwd=project).stdout == '{"n": 1}\n'
        none = mqworker("dlq", "export", "--reason", "crash", cwd=project)
        assert (none.stdout, none.stderr) == ("", "0 exported\n")
        gone = mqworker("dlq", "export", "0" * 16, cwd=project)
        assert (gone.returncode, "shows those that are" in gone.stderr) == (Exit.USAGE, True)
        assert "1 would go" in mqworker("dlq", "replay", whole[0]["id"], "--dry-run", cwd=project).stderr
        assert mqworker("dlq", "drop", whole[0]["id"], cwd=project, stdin="n\n").returncode != Exit.OK
        assert "1 removed" in mqworker("dlq", "drop", whole[0]["id"], "--yes", cwd=project).stderr
        assert ready_in(project, "primes.dlq") == 1
        assert mqworker("dlq", "show", whole[0]["id"], cwd=project).returncode == Exit.USAGE

        assert "1 messages removed" in mqworker("queues", "purge", "primes.results", "--yes", cwd=project).stderr
        assert ready_in(project, "primes.results") == 0
        assert mqworker("queues", "delete", "primes.results", "--yes", cwd=project).returncode == Exit.OK
        missing = mqworker("queues", "purge", "nobody", "--yes", cwd=project)
        assert (missing.returncode, "nobody" in missing.stderr) == (Exit.USAGE, True)


def test_a_log_that_is_followed_shows_what_happens_and_ends_on_ctrl_c(project):
    """`logs -f` prints a new line soon after it was written; Ctrl-C ends it with 0."""
    with service(project):
        process = subprocess.Popen(
            [*MQWORKER, "logs", "-f", "-n", "1"], cwd=project, env=environment(), stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline()  # what was there already: the stream is open
            assert mqworker("scale", "1", cwd=project).returncode == Exit.OK
            assert "SetConsumers" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == Exit.OK
        finally:
            process.kill()
            process.wait(10)
            process.stdout.close()


def test_drain_ends_the_service(project):
    """`mqworker drain` returns when the service has ended, with exit 0."""
    with service(project) as process:
        assert mqworker("drain", cwd=project).returncode == Exit.OK
        assert process.wait(60) == Exit.OK
    assert mqworker("status", cwd=project).returncode == Exit.NOT_RUNNING


@pytest.mark.rabbitmq
def test_minute_8_the_same_handler_on_rabbitmq(project, rabbit):
    """One setting, MQWORKER_BROKER__URL, moves the project to RabbitMQ."""
    env = {"MQWORKER_BROKER__URL": rabbit.url()}
    assert mqworker("check", cwd=project, env=env | {"MQWORKER_CONTROL__PORT": "0"}).returncode == Exit.OK
    with service(project, env=env):
        sent = mqworker("send", '{"n": 20}', "--wait", cwd=project)
        assert json.loads(sent.stdout) == {"prime": 19}
        wait_for(lambda: rabbit.queue("primes.results") is not None, 10, "the queue is on RabbitMQ")


def test_without_a_broker_the_verbs_still_answer(project):
    """With the broker away, status reports it, changes are stored and applied, what needs the broker exits with 69."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"amqp://guest:canary@127.0.0.1:{held.getsockname()[1]}/"
        with service(project, env={"MQWORKER_BROKER__URL": url}, until="/livez"):
            wait_for(lambda: "no broker" in mqworker("status", cwd=project).stdout, 20, "status says no broker")
            assert mqworker("params", "set", "largest_n=100", "--no-wait", cwd=project).returncode == Exit.OK
            for arguments in (["queues", "list"], ["send", '{"n": 2}'], ["dlq", "list"]):
                done = mqworker(*arguments, cwd=project)
                assert done.returncode == Exit.BROKER_UNREACHABLE, (arguments, done.stderr)
                assert done.stderr.count("\n") == 1
                assert "canary" not in done.stderr
            assert "canary" not in mqworker("status", cwd=project).stderr


SUPERVISORD = """\
[supervisord]
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid
childlogdir={folder}
[unix_http_server]
file={folder}/s.sock
chmod=0700
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{folder}/s.sock
[include]
files={folder}/conf.d/*.conf
"""


@pytest.fixture
def supervised(project):
    """Minute 9: supervisord with what `mqworker conf supervisor` prints; yields supervisorctl."""
    folder = project.parent
    (folder / "supervisord.conf").write_text(SUPERVISORD.format(folder=folder))
    (folder / "conf.d").mkdir()
    (project / ".mqworker").mkdir(mode=0o700, exist_ok=True)
    config = project / "mqworker.toml"
    config.write_text(config.read_text() + "\n[control]\nport = 0\n")
    printed = mqworker("conf", "supervisor", cwd=project)
    (folder / "conf.d" / "mqworker.conf").write_text(printed.stdout)
    tools = Path(sys.executable).parent
    supervisord = subprocess.Popen(
        [tools / "supervisord", "-n", "-c", folder / "supervisord.conf"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def ctl(*arguments: str) -> str:
        return subprocess.run(
            [tools / "supervisorctl", "-c", folder / "supervisord.conf", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        ).stdout

    try:
        wait_for(lambda: re.search(r"mqworker +RUNNING", ctl("status")), 30, "RUNNING")
        yield ctl
    finally:
        end(supervisord, 60)


def test_minute_9_supervisord_keeps_it_alive(supervised, project):
    """RUNNING; tail shows the log; a killed service is restarted; stop drains with exit 0; nothing is left behind."""
    wait_for(lambda: mqworker("send", '{"n": 20}', "--wait", cwd=project).returncode == 0, 30, "a result")
    assert '"event": "started"' in supervised("tail", "-10000", "mqworker")
    assert re.search(r"mqworker-watchdog +RUNNING", supervised("status"))
    pid = int(supervised("pid", "mqworker"))
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: int(supervised("pid", "mqworker")) not in (0, pid), 20, "a new service")
    wait_for(lambda: mqworker("send", '{"n": 20}', "--wait", cwd=project).returncode == 0, 30, "a result again")
    assert "stopped" in supervised("stop", "mqworker")
    assert '"exit_code": 0' in supervised("tail", "-2000", "mqworker")
    assert re.search(r"mqworker +STOPPED", supervised("status"))
    assert mqworker("status", cwd=project).returncode == Exit.NOT_RUNNING
    supervised("stop", "mqworker-watchdog")
    assert processes_of(project) == []


def test_the_watchdog_restarts_a_service_that_hangs(supervised, project, monkeypatch):
    """A frozen service is killed after several misses in a row, and supervisord restarts it."""
    monkeypatch.setattr(watchdog, "GRACE", 0.0)
    url = f"unix://{project.parent}/s.sock"
    address = Address(socket=str(project / ".mqworker" / "control.sock"))
    rpc = childutils.getRPCInterface({"SUPERVISOR_SERVER_URL": url})
    listener = watchdog.EventListener("mqworker", address, rpc)
    wait_for(lambda: watchdog.check_alive(address) == "", 30, "the service answers")
    listener.tick()
    patient = watchdog.ASK
    monkeypatch.setattr(watchdog, "ASK", 0.3)
    pid = int(supervised("pid", "mqworker"))
    os.kill(pid, signal.SIGSTOP)
    for _ in range(watchdog.MISSES):
        assert int(supervised("pid", "mqworker")) == pid
        listener.tick()
    wait_for(lambda: int(supervised("pid", "mqworker")) not in (0, pid), 20, "a new service")
    monkeypatch.setattr(watchdog, "ASK", patient)
    wait_for(lambda: watchdog.check_alive(address) == "", 30, "it answers")
    rpc("close")()
