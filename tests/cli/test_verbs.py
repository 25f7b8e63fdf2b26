"""The command line from outside: help, imports, exit codes, and what goes to which stream."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mqworker.cli import VERBS
from mqworker.exits import Exit
from tests.support.cli import environment, mqworker
from tests.support.tiny_http import response, tiny_server
from tests.support.waiting import AMPLE, wait_for

HEAVY = {"pika", "flask", "waitress", "numpy", "asyncio", "primes", "prometheus_client", "multiprocessing"}
PROJECT = '[stages.primes]\ninput = "primes"\njobs = ["primes:largest"]\noutput = { queue = "primes.results" }\n'


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with a configuration and no service."""
    (tmp_path / "mqworker.toml").write_text(PROJECT)
    return tmp_path


def imported(arguments: list[str], cwd: Path) -> set[str]:
    """Run a verb in a fresh interpreter; return the top-level modules that it imported."""
    program = (
        "import sys, json\nfrom mqworker.cli import main\nmain(sys.argv[1:])\n"
        "print('\\n' + json.dumps([name for name in sys.modules if '.' not in name]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--help"], ["run", "--help"], ["status"], ["send", "{}"]])
def test_light_verbs_import_nothing_heavy(project, arguments):
    """Help and the read-only verbs load neither broker, web server, numpy, asyncio nor user code."""
    assert imported(arguments, project) & HEAVY == set()


def test_help_names_every_verb(project):
    """`mqworker --help` lists all verbs, and so does `mqworker` without a verb."""
    told = mqworker("--help", cwd=project)
    assert told.returncode == Exit.OK
    assert all(f"  {verb} " in told.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(project, verb):
    """The help of each verb shows how to type it."""
    below = {
        "params": "set",
        "jobs": "list",
        "queues": "purge",
        "held": "skip",
        "dlq": "replay",
        "operations": "list",
        "config": "show",
        "conf": "supervisor",
    }
    arguments = [verb, *([below[verb]] if verb in below else []), "--help"]
    told = mqworker(*arguments, cwd=project)
    assert told.returncode == Exit.OK
    assert f"  mqworker {verb}" in told.stdout


ASKING = [
    ["status"], ["pause"], ["resume"], ["scale", "2"], ["start"], ["stop"], ["restart"], ["drain"], ["logs"],
    ["log-level", "debug"], ["rollback"], ["rollback", "--list"],
    ["params", "get"], ["params", "set", "a=1"], ["params", "rollback"], ["jobs", "list"], ["queues", "list"],
    ["jobs", "add", "a:b"], ["jobs", "remove", "b"], ["jobs", "move", "b", "--at", "1"], ["jobs", "disable", "b"],
    ["jobs", "enable", "b"], ["jobs", "set", "a:b"],
    ["held", "list"], ["held", "skip", "1"],
    ["queues", "purge", "q", "--yes"], ["dlq", "list"], ["dlq", "replay", "--all"], ["dlq", "export"], ["send", "{}"],
    ["receive"], ["receive", "q"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", ASKING, ids=" ".join)
def test_without_a_service_every_asking_verb_ends_with_3(project, arguments):
    """When no service runs: exit code 3, one sentence on stderr, nothing on stdout."""
    done = mqworker(*arguments, cwd=project)
    assert done.returncode == Exit.NOT_RUNNING
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "no service is running" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["log-level", "loud"],
        ["statsu"], ["scale"], ["scale", "many"], ["status", "--bogus"], ["params", "set", "a"], ["dlq", "replay"],
        ["dlq", "export", "--all", "--reason", "x"], ["send", "{}", "--header", "a"],
        ["send", "{}", "-H", "a=1", "-H", "a=2"], ["receive", "-n", "0"],
        ["send", "--count", "2"], ["status", "--url", "ftp://x"], ["status", "--timeout", "0"], ["send", "{"],
        ["scale", "1000000"], ["queues", "purge", "q"], ["queues", "delete", "q"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_command_line_ends_with_2(project, arguments):
    """Usage errors give exit code 2 and a sentence, whether or not a service is running."""
    with tiny_server(project / "s", lambda _: response("200 OK")):
        done = mqworker(*arguments, *(["--socket", "s"] if arguments[0] == "dlq" else []), cwd=project)
    assert done.returncode == Exit.USAGE
    assert done.stdout == ""
    assert done.stderr


def test_a_misspelt_verb_is_told_the_right_one(project):
    """For `statsu` the error suggests `status`."""
    assert "Did you mean `status`?" in mqworker("statsu", cwd=project).stderr


def test_a_service_that_says_nothing_ends_with_4(project):
    """A socket that accepts and never answers gives exit code 4, within the timeout."""
    with tiny_server(project / "s", lambda _: None):
        done = mqworker("status", "--socket", "s", "--timeout", "0.3", cwd=project)
    assert done.returncode == Exit.NO_ANSWER
    assert "did not answer within 0.3 s" in done.stderr


def test_a_refused_token_ends_with_77(project):
    """401 and 403 give exit code 77, and the token is not printed."""
    with tiny_server(project / "s", lambda _: response("401 Unauthorized", b'{"detail": "bad token"}')):
        done = mqworker("status", "--socket", "s", cwd=project, env={"MQWORKER_CONTROL__TOKEN": "canary"})
    assert done.returncode == Exit.REFUSED
    assert "bad token" in done.stderr
    assert "canary" not in done.stderr


def test_a_token_from_a_file_is_shown_without_any_configuration(tmp_path):
    """With --url and no mqworker.toml, the token in the environment, or its file, is sent."""
    (tmp_path / "token").write_text("from-file\n")
    with tiny_server(tmp_path / "s", lambda _: response("401 Unauthorized")) as server:
        for env in ({"MQWORKER_CONTROL__TOKEN": "plain"}, {"MQWORKER_CONTROL__TOKEN_FILE": "token"}):
            mqworker("status", "--socket", "s", cwd=tmp_path, env=env)
        assert b"Bearer plain" in server.requests[0]
        assert b"Bearer from-file" in server.requests[1]


def test_a_bad_configuration_ends_with_78_and_all_that_is_wrong(tmp_path):
    """Every mistake gets a line with its place, and nothing is started."""
    (tmp_path / "mqworker.toml").write_text(PROJECT + 'inptu = "x"\n[servce]\n')
    for verb in ("run", "status", "config"):
        done = mqworker(*([verb, "show"] if verb == "config" else [verb]), cwd=tmp_path)
        assert done.returncode == Exit.CONFIG
        assert "mqworker.toml:5" in done.stderr
        assert "mqworker.toml:6" in done.stderr


def test_a_token_for_another_user_is_no_secret_in_config_show(project):
    """`config show` prints every key with its origin and masks the secrets."""
    env = {"MQWORKER_CONTROL__TOKEN": "canary", "MQWORKER_BROKER__URL": "amqp://u:canary@h/"}
    done = mqworker("config", "show", "--origin", cwd=project, env=env)
    assert done.returncode == Exit.OK
    assert "canary" not in done.stdout + done.stderr
    assert "environment MQWORKER_CONTROL__TOKEN" in done.stdout
    assert "mqworker.toml:2" in done.stdout


def test_a_reader_that_has_seen_enough_is_no_error(project):
    """`mqworker config show | head -1` ends without a traceback."""
    command = f"{sys.executable} -m mqworker config show --json | true"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""


def test_a_closed_port_is_not_running(project):
    """Over TCP, too, an unused address gives exit code 3."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        done = mqworker("status", "--url", f"http://127.0.0.1:{held.getsockname()[1]}", cwd=project)
    assert done.returncode == Exit.NOT_RUNNING


def test_a_change_that_is_not_applied_in_time_says_what_holds_it_up(project):
    """A change that is stored but not applied gives exit code 4, the revision and the stage's problem."""
    view = {"name": "primes", "state": "starting", "applied": 1, "problem": "not connected: the broker is away"}

    def answer(head: bytes) -> bytes:
        if head.startswith(b"PUT"):
            return response("202 Accepted", b'{"revision": 2, "applied": false}')
        whole = {"stages": [view]} if b"/status" in head else view
        return response("200 OK", json.dumps(whole).encode())

    with tiny_server(project / "s", answer):
        done = mqworker("pause", "--socket", "s", "--timeout", "1.5", cwd=project)
        stored = mqworker("pause", "--socket", "s", "--no-wait", "--json", cwd=project)
    assert done.returncode == Exit.NO_ANSWER
    assert "revision 2" in done.stderr
    assert "the broker is away" in done.stderr
    assert stored.returncode == Exit.OK
    assert json.loads(stored.stdout) == {"primes": {"revision": 2, "applied": False}}


def test_attempts_are_told_of_the_own_message_on_a_line_of_their_own(project):
    """On a terminal too, beside progress; a service that tells of other messages, or without an id, changes nothing."""
    looked, own = threading.Event(), [""]

    def answer(head: bytes) -> bytes:
        if head.startswith(b"POST"):
            looked.clear()
            own[0] = re.search(rb"X-Message-Id: (\S+)", head)[1].decode()
            assert looked.wait(AMPLE)
            return response("200 OK", b'{"outcome": "dropped", "waited_ms": 1, "message_id": "x"}')
        ours = {"event": "retried", "stage": "primes", "message_id": own[0], "attempt": 1, "msg": "yes"}
        lines = [{"event": "summary"}, ours | {"message_id": "1"}, ours | {"stage": "other"}, ours]
        looked.set()
        return response("200 OK", json.dumps({"lines": lines}).encode())

    near, far = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "mqworker",
        "send",
        "{}",
        "-n",
        "2",
        "--wait",
        "--socket",
        "s",
        "--stage",
        "primes",
    ]
    with tiny_server(project / "s", answer):
        done = subprocess.run(
            command, cwd=project, env=environment(), stdin=far, stderr=far, timeout=AMPLE, check=False
        )
    os.close(far)
    told = os.read(near, 65_536).decode()
    os.close(near)
    assert done.returncode == Exit.OK, told
    assert told.count("failed: yes\r\n") == told.count("attempt") == 2
    assert re.search(r"1 sent, \d+ per second\r\x1b\[Kattempt 1 failed: yes", told), told


def test_whoever_interrupts_waits_for_no_look_into_the_log(project):
    """Ctrl-C ends `send --wait` at once, although the service does not answer."""
    code = (
        "import sys, mqworker.cli, mqworker.cli.send\n"
        "mqworker.cli.send.LOOK_MAX = 3600\n"
        "sys.exit(mqworker.cli.main(sys.argv[1:]))"
    )
    verb = ["send", "{}", "--wait", "--socket", "s", "--stage", "primes", "--timeout", "3600"]
    with tiny_server(project / "s", lambda _: None) as server:
        sender = subprocess.Popen([sys.executable, "-c", code, *verb], cwd=project, env=environment())
        with sender:
            wait_for(lambda: any(b"/logs?" in head for head in server.requests), AMPLE, "a look into the log")
            sender.send_signal(signal.SIGINT)
            try:
                assert sender.wait(AMPLE / 3) != 0  # the server hangs up after AMPLE
            finally:
                sender.kill()


def test_only_a_yes_removes_anything(project):
    """No, end of file and no stdin at all are plain refusals; at none of them is anything asked of the service."""
    verb = ["queues", "purge", "primes", "--socket", "s"]
    no = mqworker(*verb, cwd=project, stdin="n\n")
    assert (no.returncode, no.stderr.splitlines()[-1]) == (1, "mqworker: nothing was removed")
    nobody = mqworker(*verb, cwd=project)
    without = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "mqworker", *verb],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=AMPLE,
        check=False,
    )
    for done in (nobody, without):
        assert (done.returncode, done.stderr.splitlines()[-1]) == (
            Exit.USAGE,
            "mqworker: nothing was removed, because nobody has confirmed it: add --yes",
        )
    yes = mqworker(*verb, cwd=project, stdin="y\n")
    assert yes.returncode == Exit.NOT_RUNNING


def test_programs_are_named_only_in_the_configuration(project):
    """Who adds one to a chain is told where to put it, whether or not a service runs."""
    done = mqworker("jobs", "add", 'exec:["ls"]', "--socket", "s", cwd=project)
    assert done.returncode == Exit.CONFIG
    assert "programs are named only in the configuration" in done.stderr


@pytest.mark.parametrize(
    "verb", [["logs"], ["logs", "-f"], ["audit"], ["audit", "--json"], ["queues", "list"], ["receive"], ["status"]]
)
def test_a_stage_that_does_not_exist_is_not_just_empty(project, verb):
    """A verb that selects by stage fails, and names those that there are, where there is nothing to select from."""
    whole = {"stages": [], "line": [], "queues": [], "records": [], "lines": []}
    unknown = {"status": 404, "detail": 'there is no stage "nope"; known: primes'}

    def answer(head: bytes) -> bytes:
        if b"/stages/nope" in head:
            return response("404 Not Found", json.dumps(unknown).encode())
        return response("200 OK", json.dumps(whole).encode())

    with tiny_server(project / "s", answer):
        done = mqworker(*verb, "--stage", "nope", "--socket", "s", cwd=project)
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert 'there is no stage "nope"; known: primes' in done.stderr
