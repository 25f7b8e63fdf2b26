"""`mqworker send` from stdin, against a server that answers as a test wants: what a user is told, and when it ends."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mqworker.cli.bulk import BYTES
from mqworker.exits import Exit
from tests.support.cli import MQWORKER, environment, mqworker
from tests.support.tiny_http import response, tiny_server
from tests.support.waiting import AMPLE, wait_for

SEND = ["send", "--socket", "s", "--stage", "primes"]


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with a configuration and no service."""
    (tmp_path / "mqworker.toml").write_text('[stages.primes]\ninput = "primes"\njobs = ["primes:largest"]\n')
    return tmp_path


def answer(confirmed: int, *refused: tuple[int, str]) -> bytes:
    """Return what the service answers for a batch."""
    told = [{"line": line, "reason": reason} for line, reason in refused]
    return response("200 OK", json.dumps({"message_id": "run", "confirmed": confirmed, "refused": told}).encode())


def problem(status: str, **document: object) -> bytes:
    """Return a refusal."""
    return response(status, json.dumps(document).encode(), "application/problem+json")


def sender(project: Path) -> subprocess.Popen[bytes]:
    """Start one whose stdin stays open."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*MQWORKER, *SEND], cwd=project, env=environment(), stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0
    )


def test_ctrl_c_tells_what_is_confirmed_and_what_may_have_been_sent(project):
    """Ctrl-C while a batch has no answer ends it soon, and tells how many are confirmed and what nobody knows of."""
    first = answer(1)
    with (
        tiny_server(project / "s", lambda head: first if b"first=1 " in head else None) as server,
        sender(project) as sending,
    ):
        try:
            sending.stdin.write(b"{}\n")
            wait_for(lambda: len(server.requests) == 1, AMPLE, "the first batch")
            sending.stdin.write(b'{"n": 2}\n{"n": 3}\n')
            wait_for(lambda: len(server.requests) == 2, AMPLE, "the second batch")
            sending.send_signal(signal.SIGINT)
            _, told = sending.communicate(timeout=AMPLE / 3)  # the server hangs up after AMPLE
        finally:
            sending.kill()
    assert sending.returncode == 130
    assert b"interrupted: 1 sent" in told
    assert b"2 more may have been sent, because no answer came: lines 2 to 3" in told
    assert b"Traceback" not in told


def test_ctrl_c_waits_for_the_answer_to_the_batch_under_way(project):
    """What is confirmed within a moment after Ctrl-C is counted, and no line is said to be unknown."""

    def late(_head: bytes) -> bytes:
        sending.send_signal(signal.SIGINT)
        time.sleep(0.3)
        return answer(1)

    with tiny_server(project / "s", late), sender(project) as sending:
        try:
            sending.stdin.write(b"{}\n")
            _, told = sending.communicate(timeout=AMPLE)
        finally:
            sending.kill()
    assert sending.returncode == 130
    assert b"interrupted: 1 sent" in told
    assert b"may have been" not in told


def test_a_failure_is_told_while_no_line_comes(project):
    """Without a broker the command ends at once, although stdin stays open; what it had sent is uncertain."""
    refusal = problem("503 Service Unavailable", detail="the broker is gone", kind="unavailable")
    with tiny_server(project / "s", lambda _: refusal), sender(project) as sending:
        try:
            sending.stdin.write(b"{}\n")
            assert sending.wait(AMPLE) == Exit.BROKER_UNREACHABLE
            told = sending.stderr.read()
        finally:
            sending.kill()
    assert b"stopped: 0 sent" in told
    assert b"1 more may have been sent, because no answer came: line 1" in told
    assert b"the broker is gone" in told


def full() -> bytes:
    """Return a refusal of what was not even begun, for a second."""
    refusal = problem("503 Service Unavailable", detail="the broker confirms nothing", kind="full")
    return refusal.replace(b"\r\n\r\n", b"\r\nRetry-After: 1\r\n\r\n", 1)


@pytest.mark.parametrize("how", ["lines", "body"])
def test_what_was_not_begun_is_sent_again(project, how):
    """A request that the service refuses for now is made again after what Retry-After says, and the user sees why."""
    good, times = answer(2) if how == "lines" else response("202 Accepted", b'{"message_id": "x"}'), []

    def reply(_head: bytes) -> bytes:
        times.append(time.monotonic())
        return full() if len(times) == 1 else good

    with tiny_server(project / "s", reply) as server:
        body = [] if how == "lines" else ["1"]
        done = mqworker(*SEND, *body, cwd=project, stdin=None if body else "1\n2\n")
    assert done.returncode == Exit.OK, done.stderr
    assert "0 sent; the broker confirms nothing; trying again in 1 s" in done.stderr
    assert "may have been" not in done.stderr
    assert len(times) == 2
    assert times[1] - times[0] > 0.9
    assert server.bodies[0] == server.bodies[1]


def test_what_was_not_begun_is_given_up_after_the_timeout(project):
    """Once --timeout has passed, the lines are named as not sent."""
    with tiny_server(project / "s", lambda head: answer(1) if b"first=1 " in head else full()) as server:
        done = mqworker(*SEND, "--timeout", "1.5", "--rate", "10", cwd=project, stdin="1\n2\n")
    assert done.returncode == Exit.NO_ANSWER
    assert "stopped: 1 sent" in done.stderr
    assert "line 2 was not sent: the broker confirms nothing" in done.stderr
    assert "may have been" not in done.stderr
    assert len(server.requests) == 4, "line 1, and line 2 thrice"


def test_ctrl_c_ends_the_wait_to_send_again(project):
    """Ctrl-C while a batch waits to be sent again ends it at once, and no line is said to be unknown."""
    refusal = full().replace(b"Retry-After: 1", b"Retry-After: 20")
    with tiny_server(project / "s", lambda _: refusal), sender(project) as sending:
        try:
            sending.stdin.write(b"{}\n")
            assert b"trying again in 20 s" in sending.stderr.readline()
            began = time.monotonic()
            sending.send_signal(signal.SIGINT)
            _, told = sending.communicate(timeout=AMPLE)
        finally:
            sending.kill()
    assert time.monotonic() - began < 10
    assert sending.returncode == 130
    assert b"interrupted: 0 sent" in told
    assert b"may have been" not in told


def test_refused_lines_are_named(project):
    """Each line that the broker refused is named with the reason, and no line behind that batch is sent."""
    refused = answer(2, (2, "queue full"), (3, "queue full"), (5, "queue full"))
    with tiny_server(project / "s", lambda _: refused) as server:
        done = mqworker(*SEND, cwd=project, stdin="\n".join(["1"] * 5000))
    assert done.returncode == Exit.USAGE
    assert "stopped: 2 sent" in done.stderr
    assert "lines 2 to 3, 5 were not sent: queue full" in done.stderr
    assert len(server.requests) == 1


def test_a_line_that_the_service_does_not_even_read_is_named(project):
    """One so large that its request is refused as a whole is told by its number, as one above `max_body` is."""
    refusal = problem("413 Content Too Large", detail="the body is larger than 4194304 bytes")
    with tiny_server(project / "s", lambda head: answer(1) if b"first=1 " in head else refusal):
        done = mqworker(*SEND, cwd=project, stdin=f'1\n\n"{"x" * BYTES}"\n4\n')
    assert "stopped: 1 sent" in done.stderr
    assert "line 3 was not sent: the body is larger than 4194304 bytes" in done.stderr
    assert "may have been" not in done.stderr
    assert done.returncode == Exit.USAGE


def test_a_line_whose_result_is_waited_for_is_named_too(project):
    """With --wait lines go one by one; the one that is refused, or is dead, is told by its number."""
    refusal = problem("413 Content Too Large", detail="the body has 20 bytes; max_body of this stage allows 16")
    done_well = b'{"outcome": "dropped", "waited_ms": 1, "message_id": "x"}'

    def reply(head: bytes) -> bytes:
        return refusal if b"Content-Length: 20" in head else response("200 OK", done_well)

    with tiny_server(project / "s", reply):
        done = mqworker(*SEND, "--wait", cwd=project, stdin='1\n\n2\n"456789012345678901"\n')
    assert "line 4: the body has 20 bytes" in done.stderr
    assert done.returncode == Exit.USAGE


def test_an_older_service_is_named_as_the_cause(project):
    """A service that knows no lines refuses the first batch: the message says what to do instead of quoting it."""
    fields = [{"field": "each", "problem": "is unknown; known: wait"}]
    refusal = problem("422 Unprocessable Entity", detail="the query parameter 'each' is unknown", fields=fields)
    with tiny_server(project / "s", lambda _: refusal):
        done = mqworker(*SEND, cwd=project, stdin="{}\n")
    assert done.returncode == Exit.USAGE
    assert "older than this command" in done.stderr
    assert "may have been" not in done.stderr


def test_a_rate_holds_for_lines_too(project):
    """With --rate 20 lines go two at a time, so that twenty of them take most of a second."""
    times: list[float] = []

    def note(_head: bytes) -> bytes:
        times.append(time.monotonic())
        return answer(2)

    with tiny_server(project / "s", note):
        done = mqworker(*SEND, "--rate", "20", cwd=project, stdin="1\n" * 20)
    assert done.returncode == Exit.OK, done.stderr
    assert "20 sent" in done.stderr
    assert len(times) == 10
    assert times[-1] - times[0] > 0.5


def test_each_answer_is_a_document_with_json(project):
    """With --json stdout has what the service answered, one document for each batch."""
    with tiny_server(project / "s", lambda _: answer(3)):
        done = mqworker(*SEND, "--json", cwd=project, stdin="1\n2\n3\n")
    assert json.loads(done.stdout) == {"message_id": "run", "confirmed": 3, "refused": []}
