"""`mqworker dlq`, against a server that answers as a test wants: what is asked for, told, and ended by Ctrl-C."""

import json
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.cli.paced import batches
from mqworker.exits import Exit
from tests.support.cli import MQWORKER, environment, mqworker
from tests.support.tiny_http import response, tiny_server
from tests.support.waiting import AMPLE, wait_for

ABOUT = ["--socket", "s", "--stage", "primes"]


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with a configuration and no service."""
    (tmp_path / "mqworker.toml").write_text('[stages.primes]\ninput = "primes"\njobs = ["primes:largest"]\n')
    return tmp_path


def service(**changes):
    """Answer for a stage with three dead letters, of which two are equal, and many more; `changes` by path's end."""
    view = {"state": "done", "done": 3, "gone": 0, "unsure": 0, "refused": 0, "reason": ""}
    told = {
        "selections": {"selection": "5e1", "count": 3, "complete": False},
        "replay": {"operation": "0b", "replayed": 3},
        "drop": {"operation": "0b"},
        "0b": view | changes.pop("view", {}),
        "dlq": {"dead_letters": [{"id": name} for name in "aba"]},
        **changes,
    }

    def answer(head: bytes) -> bytes:
        last = head.split()[1].partition(b"?")[0].rpartition(b"/")[2].decode()
        found = told[last]
        body = found if isinstance(found, bytes) else json.dumps(found).encode()
        return response("200 OK", body)

    return answer


def test_what_was_not_selected_is_told(project):
    """One request goes through 10,000 letters: of a queue with more, whoever replays or drops all is told."""
    with tiny_server(project / "s", service()):
        told = mqworker("dlq", "replay", "--all", *ABOUT, cwd=project)
        assert (told.returncode, "3 sent back to the input (the oldest ones; there may be more)" in told.stderr) == (
            0,
            True,
        )
        told = mqworker("dlq", "drop", "--all", "--yes", *ABOUT, cwd=project)
        assert told.returncode == Exit.OK
        assert "3 removed (the oldest ones; there may be more)" in told.stderr


def test_a_drop_asks_for_as_many_as_it_removes(project):
    """Equal letters have one id; without an answer nothing is removed."""
    with tiny_server(project / "s", service()) as server:
        told = mqworker("dlq", "drop", "a", *ABOUT, cwd=project)
    assert told.returncode == Exit.USAGE
    assert "Remove 3 dead letters of primes" in told.stderr
    assert len(server.requests) == 1


def test_an_export_that_lacks_letters_fails(project):
    """It says how many are missing; what there is is on stdout."""
    line = json.dumps({"id": "a", "body_base64": "MQ=="}).encode() + b"\n"
    with tiny_server(project / "s", service(export=2 * line)):
        told = mqworker("dlq", "export", *ABOUT, cwd=project)
    assert told.stdout.encode() == 2 * line
    assert "2 exported" in told.stderr
    assert "1 of 3 were no longer there" in told.stderr
    assert told.returncode == Exit.INTERNAL


@pytest.mark.parametrize("bodies", [True, False])
def test_an_export_without_some_of_the_bodies_fails(project, bodies):
    """A letter that is too large has no body: no empty line for it; it says how many there are."""
    some = json.dumps({"id": "a", "body_base64": "MQ=="}).encode() + b"\n"
    large = json.dumps({"id": "b", "body_base64": "", "too_large": True}).encode() + b"\n"
    with tiny_server(project / "s", service(export=some + large + some)):
        told = mqworker("dlq", "export", *["--bodies"] * bodies, *ABOUT, cwd=project)
    assert told.stdout.encode() == (b"1\n1\n" if bodies else some + large + some)
    assert "1 of 3 are too large to be exported with their bodies" in told.stderr
    assert told.returncode == Exit.INTERNAL


def test_letters_that_could_not_be_sent_back_are_told(project):
    """The others are: the exit code says that something is left to do."""
    view = {"done": 2, "refused": 1, "reason": "letter ab cannot be sent back: why"}
    with tiny_server(project / "s", service(view=view)):
        told = mqworker("dlq", "replay", "a", *ABOUT, cwd=project)
    assert told.returncode == Exit.USAGE
    assert "1 could not be sent back: letter ab cannot be sent back: why" in told.stderr


def test_ctrl_c_while_an_operation_begins_ends_it(project):
    """Its name comes with the answer, and without it nobody could end it."""
    usual = service(view={"state": "cancelled", "done": 1})

    def answer(head: bytes) -> bytes:
        if head.startswith(b"POST") and b"/replay " in head:
            replaying.send_signal(signal.SIGINT)
        return usual(head)

    command = [*MQWORKER, "dlq", "replay", "--all", *ABOUT]
    with (
        tiny_server(project / "s", answer) as server,
        subprocess.Popen(command, cwd=project, env=environment(), stderr=subprocess.PIPE) as replaying,
    ):
        _, told = replaying.communicate(timeout=AMPLE)
    assert [head.split()[:2] for head in server.requests][2:] == [[b"DELETE", b"/api/v1/operations/0b"]]
    assert b"interrupted: 1 of 3 sent back" in told
    assert replaying.returncode == 130


def test_a_second_ctrl_c_does_not_wait(project):
    """A service that does not answer keeps nobody; where to look is told."""
    usual = service()
    silent = lambda head: None if b"/replay " in head else usual(head)  # noqa: E731 - as small as it is
    command = [*MQWORKER, "dlq", "replay", "--all", *ABOUT]
    with (
        tiny_server(project / "s", silent) as server,
        subprocess.Popen(command, cwd=project, env=environment(), stderr=subprocess.PIPE) as replaying,
    ):
        wait_for(lambda: len(server.requests) == 2, AMPLE, "the request to begin")
        replaying.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            replaying.wait(0.3)
        replaying.send_signal(signal.SIGINT)
        _, told = replaying.communicate(timeout=AMPLE)
    assert b"`mqworker operations list` shows it" in told
    assert replaying.returncode == 130


def test_at_a_rate_equal_letters_go_too(project):
    """As many of each id as there are, and no other beside some of them: at 8 a second, two at a time."""
    with tiny_server(project / "s", service()) as server:
        told = mqworker("dlq", "replay", "--all", "--rate", "8", *ABOUT, cwd=project)
    assert told.returncode == Exit.OK, told.stderr
    asked = [head.split()[1].rpartition(b"/")[2][:6] for head in server.requests]
    assert asked == [b"select", b"dlq?li", b"replay", b"replay"]


@given(st.lists(st.sampled_from("abcdef"), max_size=40), st.integers(1, 9))
def test_batches_have_every_letter_once(ids, size):
    """A request takes so many letters as its ids have, or of one id as many as it may: none is left out."""
    left = Counter(ids)
    for names, count in batches(ids, size):
        assert 0 < count <= size
        assert len(names) == 1 or count == sum(left[name] for name in names)
        for name in names:
            left[name] -= min(count, left[name])
    assert not +left
