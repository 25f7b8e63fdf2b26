"""What is wrong outside of mqworker is reported in one sentence with cause, place and fix, and by the right code."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mqworker.service.startup import PORT_PATIENCE
from tests.support.embedded import HANDLER, Client, Result, config, curl, port
from tests.support.ports import free_port
from tests.support.service import ServiceProcess, gone
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

WITH_PARAMS = """\
from dataclasses import dataclass

@dataclass
class Params:
    inertia: float = 0.7
    particles: int = 30

def handle(body, params):
    return body
"""
BAD = {
    "unknown key": (config("prefech = 3"), HANDLER, ["mqworker.toml:11", "prefech", "did you mean prefetch?"]),
    "unknown table": (
        config("[contrl]", "port = 1"),
        HANDLER,
        ["mqworker.toml:11", "contrl", "did you mean control?"],
    ),
    "value out of range": (config("prefetch = 0"), HANDLER, ["mqworker.toml:11", "prefetch", "is 0, must be"]),
    "no TOML": (config("prefetch ="), HANDLER, ["mqworker.toml:11"]),
    "missing module": (
        config().replace("jobs:handle", "jbos:handle"),
        HANDLER,
        ["stage work", 'job "jbos:handle"', "there is no module 'jbos' in", "did you mean 'jobs'?"],
    ),
    "missing name": (
        config().replace("jobs:handle", "jobs:handel"),
        HANDLER,
        ["stage work", "jobs has no 'handel'", "did you mean 'handle'?"],
    ),
    "not callable": (
        config(),
        "handle = 3\n",
        ["stage work", "it is an int, which cannot be called", "name a function"],
    ),
    "wrong arguments": (config(), "def handle(body, parms):\n    pass\n", ["stage work", "parms"]),
    "raises at import": (
        config(),
        "import time\nraise RuntimeError('no tariffs')\n",
        ["stage work", "importing jobs raised RuntimeError: no tariffs", "fix it"],
    ),
    "exits at import": (
        config(),
        "raise SystemExit(0)\n",
        ["stage work", "importing jobs raised SystemExit", "fix it"],
    ),
    "wrong params": (
        config('params = { inertia = "much", partikles = 3 }'),
        WITH_PARAMS,
        [
            "stage work",
            "params.inertia",
            "Expected `float`, got `str`",
            "params.partikles",
            'did you mean "particles"?',
        ],
    ),
    "open without a token": (
        config(control='port = 0\nhost = "0.0.0.0"'),
        HANDLER,
        ["mqworker.toml:6", "control.host", "0.0.0.0", "token"],
    ),
}


def refused(service: ServiceProcess, *arguments: str) -> tuple[int, str]:
    """Run `mqworker run` to its end; return the exit code, and all that it wrote to stderr and the log."""
    done = service.cli("run", *arguments)
    gone(service)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    for event in told:
        assert "mqworker/" not in event.get("traceback", ""), "a traceback shows the user's code alone"
    return done.returncode, "".join(event["msg"] + "\n" for event in told) + done.stderr


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_run_is_refused_at_the_start(service, what):
    """Exit 78 and a sentence with cause, place and fix; no traceback of mqworker, no process left."""
    toml, jobs, words = BAD[what]
    running = service(toml, {"jobs.py": jobs})
    code, said = refused(running)
    print(said)
    assert code == 78
    for word in words:
        assert word in said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 2, "one sentence, below a headline if it is about the file"


def test_all_faults_of_a_file_are_told_at_once(service):
    """One run reports every mistake in a file with its line."""
    running = service(config("prefech = 3", "max_body = -1").replace("port = 0", "port = 99999"), {"jobs.py": HANDLER})
    code, said = refused(running)
    assert code == 78
    for where in ("mqworker.toml:5", "mqworker.toml:11", "mqworker.toml:12"):
        assert where in said
    assert said.index("mqworker.toml:5") < said.index("mqworker.toml:11")


@pytest.mark.parametrize("seconds", [2, pytest.param(10, marks=pytest.mark.release)])
def test_a_taken_port(service, seconds):
    """A port in use is retried for 10 s, before any process is started; then exit 1 and a sentence with the fix."""
    patience = {} if seconds == PORT_PATIENCE else {"MQWORKER_TEST_TIME": f"service.startup:PORT_PATIENCE={seconds}"}
    number = free_port()
    with socket.create_server(("127.0.0.1", number)):
        began = time.monotonic()
        running = service(config(control=f"port = {number}"), {"jobs.py": HANDLER}, **patience).start(ready=None)
        seen: set[str] = set()

        def ended() -> bool:
            seen.update(running.pids().values())
            return running.process.poll() is not None

        wait_for(ended, 40, "the service to give up")
        took = time.monotonic() - began
    assert running.wait() == 1
    assert took > 0.95 * seconds
    print(f"refused after {took:.1f} s")
    assert not [name for name in seen if name.startswith("mqw-")], "a tree was started without a port"
    _starting, said = running.events()
    assert said["event"] == "cannot_start"
    assert f"the control address 127.0.0.1:{number} cannot be used" in said["msg"]
    assert "set control.port" in said["msg"]
    running.start()  # free again
    assert running.stop() == 0


def test_a_port_that_becomes_free_is_taken(service):
    """A port that another program leaves within 10 s does not end the service."""
    number = free_port()
    with socket.create_server(("127.0.0.1", number)):
        running = service(config(control=f"port = {number}"), {"jobs.py": HANDLER}).start(ready=None)
        wait_for((running.folder / ".mqworker/lock").exists, 20, "the service to have come to its port")
    running.wait_ready()
    assert running.stop() == 0


def test_a_second_instance_is_refused(service):
    """A second `run` with the same state folder gets a sentence with the pid of the first, which does not notice."""
    first = service(config(), {"jobs.py": HANDLER}).start()
    began = time.monotonic()
    done = first.cli("run")
    assert done.returncode == 1
    assert time.monotonic() - began < 90  # it is tried for 10 s
    assert f"another instance (pid {first.process.pid}) runs with the state folder" in done.stdout
    assert "service.state_dir" in done.stdout
    with Client(first) as client:
        client.send(20)
        client.finish()
    assert first.ask("GET", "/readyz")[0] == 200
    assert first.stop() == 0


def test_a_broker_url_that_got_lost(service):
    """A folder that ran on RabbitMQ is not run on the embedded broker unless broker.url says so: 78, with the cause."""
    variable = "MQWORKER_BROKER__URL"
    running = service(config(), {"jobs.py": HANDLER})
    running.env[variable] = f"amqp://127.0.0.1:{free_port()}"  # nobody listens there, and that is no reason to end
    running.start(ready=None)
    assert "on amqp://127.0.0.1" in running.event("starting")["msg"]
    running.event("started")
    assert running.stop() == 0
    del running.env[variable]
    code, said = refused(running)
    assert code == 78
    assert "broker.url is not set" in said
    assert "ran on RabbitMQ before" in said
    checked = running.cli("check")
    assert checked.returncode == 78
    assert "ran on RabbitMQ before" in checked.stdout
    running.env[variable] = "sqlite:///here.db"
    running.start()
    assert any(" on sqlite:///" in event["msg"] for event in running.events() if event["event"] == "starting")
    assert running.stop() == 0
    del running.env[variable]
    assert running.start().stop() == 0


def test_a_file_where_the_state_folder_should_be(service):
    """When state_dir is a file: exit 78, with the setting to change."""
    running = service(config(service='state_dir = "taken"'), {"jobs.py": HANDLER, "taken": "here"})
    code, said = refused(running)
    assert code == 78
    assert f"the state folder {running.folder / 'taken'} cannot be written" in said
    assert "set service.state_dir" in said


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_a_state_folder_of_another_user(service):
    """When state_dir belongs to another user: exit 78 and the same sentence."""
    running = service(config(), {"jobs.py": HANDLER})
    running.folder.chmod(0o755)
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    as_nobody += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # the checkout may be private
    done = subprocess.run(
        [*as_nobody, sys.executable, "-m", "mqworker", "run"],
        cwd=running.folder,
        env=running.env | {"HOME": "/"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 78, done.stdout + done.stderr
    assert f"the state folder {running.folder / '.mqworker'} cannot be written (Permission denied)" in done.stdout


TOKEN, CANARY, PASSWORD = "tok-5b1e77aa90", "canary-77f0c2d1", "pw-c0ffee1234"
LEAKY = f"""\
def handle(body, message):
    if body["n"] % 2:
        raise ValueError("cannot use this body")
    return {{"n": body["n"], "secret": "{CANARY}-result"}}
"""


@pytest.fixture
def guarded(service) -> ServiceProcess:
    """A service with a token from a file."""
    running = service(config("retry = { max_attempts = 1 }"), {"jobs.py": LEAKY, "token": TOKEN + "\n"})
    (running.folder / "token").chmod(0o600)
    running.env["MQWORKER_CONTROL__TOKEN_FILE"] = str(running.folder / "token")
    return running.start()


def test_who_may_not_is_told_so(guarded):
    """No or a wrong token gets 401, a foreign Host 421, another site 403, over 64 kB 413; none changes anything."""
    at = port(guarded)
    stage = "/api/v1/stages/work"
    right = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    off = b'{"enabled": false}'
    before = guarded.stage("work")["desired"]
    table: list[tuple[int, str, str, bytes | None, dict[str, str]]] = [
        (401, "GET", "/api/v1/status", None, {}),
        (401, "GET", "/metrics", None, {}),
        (401, "GET", "/readyz", None, {}),
        (401, "POST", "/stopworking", None, {"Authorization": "Bearer wrong"}),
        (401, "PUT", f"{stage}/listening", off, {"Authorization": f"Basic {TOKEN}"}),
        (401, "GET", f"/api/v1/status?token={TOKEN}", None, {}),
        (421, "GET", "/api/v1/status", None, right | {"Host": "evil.example"}),
        (421, "PUT", f"{stage}/listening", off, right | {"Host": f"127.0.0.1.evil.example:{at}"}),
        (403, "PUT", f"{stage}/listening", off, right | {"Origin": "http://evil.example"}),
        (403, "GET", "/stopworking", None, right | {"Sec-Fetch-Site": "cross-site"}),
        (413, "PATCH", f"{stage}/params", b'{"a": "' + b"x" * 65_000 + b'"}', right),
        (415, "PUT", f"{stage}/listening", off, right | {"Content-Type": "text/plain"}),
        (400, "PUT", f"{stage}/listening", b"{", right),
        (422, "PUT", f"{stage}/listening", b'{"enabeld": true}', right),
        (404, "POST", "/api/v1/stages/wrok/stop", None, right),
        (405, "DELETE", f"{stage}/listening", None, right),
    ]
    for status, method, path, data, headers in table:
        answer = curl(at, method, path, data, **headers)
        assert answer.status == status, (method, path, headers, answer)
        assert answer.headers.get_content_type() == "application/problem+json"
        assert answer.body["detail"]
        assert TOKEN not in str(answer.body)
    assert guarded.stage("work")["desired"] == before
    assert curl(at, "GET", "/livez").status == 200
    assert curl(at, "GET", "/api/v1/status", **right).status == 200
    assert curl(at, "PUT", f"{stage}/listening", off, **right).status == 202
    assert guarded.stop() == 0


def everything_told(service: ServiceProcess) -> Iterator[tuple[str, str]]:
    """Return all output except messages: log, status, metrics, health, and what the command line prints."""
    yield "log", service.log.read_text()
    for path in (
        "/api/v1/status",
        "/api/v1/stages/work",
        "/api/v1/queues",
        "/metrics",
        "/readyz",
        "/api/v1/openapi.json",
    ):
        yield path, str(service.ask("GET", path)[1])
    yield "/api/v1/logs", str(service.ask("GET", "/api/v1/logs")[1])
    for verb in (("status",), ("status", "--json"), ("config", "show", "--origin"), ("queues", "list"), ("check",)):
        done = service.cli(*verb)
        yield " ".join(verb), done.stdout + done.stderr
    yield "desired.json", (service.folder / ".mqworker/desired.json").read_text()
    for pid in service.pids():
        yield f"arguments of {pid}", Path(f"/proc/{pid}/cmdline").read_bytes().decode()


def no_secret(service: ServiceProcess, *secrets: str) -> None:
    """Search all output for the secrets."""
    for where, text in everything_told(service):
        for secret in secrets:
            assert secret not in text, f"{secret} in {where}"


def test_token_and_bodies_are_told_nowhere(guarded):
    """Even at log level debug, neither the token nor any part of a body is in any output."""
    assert guarded.ask("PUT", "/api/v1/log-level", {"level": "debug"})[0] == 202
    with Client(guarded) as client:
        client.send(20, secret=CANARY)
        client.send_raw([f'"{CANARY}'.encode()])  # not even JSON
        wait_for(lambda: client.ready("out") == 10 and client.ready("in.dlq") == 11, 30, "all to be done")
        dead: list[Any] = guarded.ask("GET", "/api/v1/stages/work/dlq")[1]["dead_letters"]
        assert len(dead) == 11
        assert CANARY not in str(dead), "a list of dead letters shows no bodies"
    wrong = curl(port(guarded), "GET", "/api/v1/status", Authorization="Bearer tok-wrong-one")
    assert wrong.status == 401
    no_secret(guarded, TOKEN, CANARY, "tok-wrong-one")
    assert guarded.stop() == 0


def test_the_brokers_password_is_told_nowhere(service):
    """When the broker cannot be reached, its URL is shown everywhere without its password."""
    number = free_port()
    url = f"amqp://worker:{PASSWORD}@127.0.0.1:{number}/%2F"
    toml = config().replace("[stages.work]", f'[broker]\nurl = "{url}"\n[stages.work]')
    running = service(toml, {"jobs.py": HANDLER})
    (running.folder / "mqworker.toml").chmod(0o600)
    running.start(ready=None)

    def told() -> bool:
        links = [event["msg"] for event in running.events() if event["event"] == "link"]
        return any(f"127.0.0.1:{number}" in words for words in links)

    wait_for(told, 20, "the log to say which broker does not answer")
    wait_for(lambda: f"127.0.0.1:{number}" in running.ask("GET", "/readyz")[1]["detail"], 20, "/readyz to say so too")
    assert running.ask("GET", "/readyz")[0] == 503
    no_secret(running, PASSWORD)
    assert running.stop() == 0


def test_a_body_that_is_no_json_is_put_aside(service):
    """Bodies that cannot be decoded become dead letters, unchanged, with the reason; the others go on."""
    running = service(config("max_body = 1000"), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        bad = [b"{", b"\xff\xfe", b'{"n": ' * 3000, b"", b"x" * 2000]
        client.send(10)
        client.send_raw(bad)
        client.send(10)
        wait_for(lambda: client.ready("out") == 20 and client.ready("in.dlq") == len(bad), 30, "all to be settled")
        told = running.ask("GET", "/api/v1/stages/work/dlq")[1]["dead_letters"]
        assert sorted(letter["reason"] for letter in told) == ["oversized"] * 2 + ["undecodable"] * 3
        assert client.ready() == 0
        results: list[Result] = client.results()
        assert {result.body["n"] for result in results} == set(range(20))
    assert running.stop() == 0
