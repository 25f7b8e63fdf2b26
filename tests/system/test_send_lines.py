"""`mqworker send` from stdin to a real service: what is in the queue afterwards is what was said."""

import json
import signal
import subprocess

import pytest

from mqworker.exits import Exit
from tests.support.embedded import INPUT, Client, config
from tests.support.waiting import AMPLE, wait_for

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("send lines")]  # they share a service
JOBS = {"jobs.py": "def handle(body):\n    return body\n"}


@pytest.fixture(scope="module")
def pausing(module_service):
    """A service that takes nothing from its queue."""
    running = module_service(config("max_body = 1000", consumers=1), JOBS).start()
    assert running.cli("pause").returncode == Exit.OK
    return running


@pytest.fixture
def paused(pausing):
    """It, with an empty queue."""
    yield pausing
    assert pausing.cli("queues", "purge", INPUT, "--yes").returncode == Exit.OK


def test_a_file_is_sent_whole_and_in_order(paused):
    """Each line is a message, in their order and with the number of its line in its id; a blank one is none."""
    lines = [json.dumps({"n": number}) for number in range(12_345)]
    text = "\n\n" + "\r\n".join(lines[:2000]) + "\n \n" + "\n".join(lines[2000:])  # the last line has no end
    done = paused.cli("send", input=text.encode())
    assert done.returncode == Exit.OK, done.stderr
    assert f"{len(lines)} sent" in done.stderr
    with Client(paused) as client:
        found = client.results(INPUT)
    assert [each.body["n"] for each in found] == list(range(len(lines)))
    (run,) = {str(each.properties.message_id).rpartition(".")[0] for each in found}
    assert f"the id of line N is {run}.N" in done.stderr
    numbers = [int(str(each.properties.message_id).rpartition(".")[2]) for each in found]
    assert numbers == [*range(3, 2003), *range(2004, len(lines) + 4)]


@pytest.mark.parametrize(
    ("bad", "told"),
    [('{"n": ', "line 2345 is not JSON"), (f'"{"x" * 999}"', "line 2345 was not sent: it has 1001 bytes")],
)
def test_a_bad_line_is_named(paused, bad, told):
    """All lines before one that is no JSON, or too large for the stage, are sent and counted; none behind it is."""
    lines = [json.dumps({"n": number}) for number in range(5000)]
    lines[2344] = bad
    done = paused.cli("send", input="\n".join(lines).encode())
    assert done.returncode == Exit.USAGE
    assert "stopped: 2344 sent" in done.stderr
    assert told in done.stderr
    with Client(paused) as client:
        assert [each.body["n"] for each in client.results(INPUT)] == list(range(2344))


def test_lines_go_as_they_come(paused):
    """A line is in the queue while stdin stays open, as with `tail -f`; Ctrl-C then ends it and tells how many."""
    pipe = subprocess.PIPE
    command = [*paused.command, "send"]
    with (
        Client(paused) as client,
        subprocess.Popen(command, cwd=paused.folder, env=paused.env, stdin=pipe, stderr=pipe, bufsize=0) as sending,
    ):
        try:
            sending.stdin.write(b'{"n": 1}\n{"half')
            wait_for(lambda: client.ready() == 1, AMPLE, "the first line in the queue")
            sending.stdin.write(b'": 2}\n')
            wait_for(lambda: client.ready() == 2, AMPLE, "the second line in the queue")
            sending.send_signal(signal.SIGINT)
            _, told = sending.communicate(timeout=AMPLE)
        finally:
            sending.kill()
    assert sending.returncode == 130
    assert b"interrupted: 2 sent" in told
