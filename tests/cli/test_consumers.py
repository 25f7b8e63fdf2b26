"""`mqworker replace`, against a server that keeps what it was asked for."""

import json

import pytest
from click.testing import CliRunner

from mqworker.address import CallError
from mqworker.cli.consumers import replace
from mqworker.exits import Exit
from tests.support.tiny_http import response, tiny_server

ASKED = ["1", "--stage", "energy", "--socket", "s"]
BUSY = {"slot": 1, "pid": 42, "state": "busy", "seq": 7, "message_id": "m-7", "message_seconds": 9.0, "messages": []}
IDLE = BUSY | {"state": "idle", "seq": 0, "message_id": None, "message_seconds": None}
OTHERS = [BUSY | {"slot": 0, "pid": 40, "seq": 6, "message_id": "m-6"}, BUSY | {"pid": 41, "state": "leaving"}]
ONE = {"seconds": 9.0, "message_id": "m-7"}
KILLED = {"slot": 1, "pid": 42, "now": True, "in_hand": 1, "running": 1, "message_id": "m-7"}


def asked(folder, monkeypatch, consumers, *more, answer=None):
    """Run the verb where a stage has these Consumers; returns its result, and the body of what it asked for."""
    monkeypatch.chdir(folder)
    view = {"actual": None if consumers is None else {"consumers": consumers}}
    done = response("202 Accepted", json.dumps(KILLED).encode())

    def reply(head: bytes) -> bytes:
        return response("200 OK", json.dumps(view).encode()) if head.startswith(b"GET ") else answer or done

    with tiny_server(folder / "s", reply) as server:
        result = CliRunner().invoke(replace, [*ASKED, *more])
    return result, json.loads(server.bodies[-1])


@pytest.mark.parametrize(
    ("consumers", "more", "body"),
    [
        ([*OTHERS, BUSY], ["--now"], {"pid": 42, "message_id": "m-7", "seq": 7}),
        ([BUSY | {"message_id": None}], ["--now"], {"pid": 42, "seq": 7}),
        ([BUSY | {"message_id": "m" * 256}], ["--now"], {"pid": 42, "seq": 7}),
        ([BUSY | {"messages": [ONE]}], ["--now"], {"pid": 42, "message_id": "m-7", "seq": 7}),
        # One that has ended when this arrives was not meant: the Consumer was.
        ([BUSY | {"message_seconds": 1.9}], ["--now"], {"pid": 42}),
        ([BUSY | {"messages": [ONE, ONE]}], ["--now"], {"pid": 42}),
        ([IDLE], ["--now"], {"pid": 42}),
        # Of two in a slot, the one that the Producer takes.
        ([IDLE | {"pid": 41, "state": "spare"}, IDLE], ["--now"], {"pid": 42}),
        ([IDLE, IDLE | {"pid": 43, "state": "spare"}], ["--now"], {"pid": 42}),
        ([IDLE | {"pid": 41}, IDLE], ["--now"], {"pid": 42}),
        ([IDLE, IDLE | {"pid": 43, "state": "dead"}], ["--now"], {"pid": 42}),
        (OTHERS[:1], ["--now"], {}),
        (None, ["--now"], {}),
        ([BUSY], ["--now", "--message", "m-5"], {"message_id": "m-5"}),
        ([BUSY], ["--message", "m-5"], {"message_id": "m-5"}),
        ([BUSY], [], {}),
    ],
)
def test_only_the_message_that_was_seen_is_killed(tmp_path, monkeypatch, consumers, more, body):
    """The verb names the Consumer's process, and its message if that has run for long, or the one that was named."""
    result, sent = asked(tmp_path, monkeypatch, consumers, *more)
    assert (result.exit_code, sent) == (Exit.OK, {"now": "--now" in more} | body)
    assert ("leaves when it has finished" in result.stderr) == ("--now" not in more)


@pytest.mark.parametrize(
    ("in_hand", "running", "name", "told"),
    [
        (0, 0, None, "; it had nothing in hand"),
        (1, 1, "m-7", "; message m-7 is charged with a crash"),
        (1, 1, None, "; its message in hand is charged with a crash"),
        (3, 3, None, "; its 3 messages in hand run again; the one at fault is charged with a crash, if that is known"),
        (1, 0, None, "; its message in hand waited for a shared object, and runs again, uncharged"),
        (4, 0, None, "; its 4 messages in hand waited for a shared object, and run again, uncharged"),
        (
            *(2, 1, "m-7"),
            "; message m-7 is charged with a crash; what waited for a shared object runs again, uncharged",
        ),
    ],
)
def test_what_is_charged_is_told_as_the_service_says(tmp_path, monkeypatch, in_hand, running, name, told):
    """What a killed Consumer had in hand is what it had when it was killed, not what the status showed before."""
    killed = KILLED | {"in_hand": in_hand, "running": running, "message_id": name}
    answer = response("202 Accepted", json.dumps(killed).encode())
    result, _ = asked(tmp_path, monkeypatch, [BUSY], "--now", answer=answer)
    assert result.stderr == f"energy: Consumer 1 (pid 42) is killed, and replaced{told}\n"


def test_a_service_of_an_earlier_version_is_understood(tmp_path, monkeypatch):
    """It does not say what was in hand: the package is updated before the service is restarted."""
    answer = response("202 Accepted", json.dumps({"slot": 1, "pid": 42, "now": True}).encode())
    result, _ = asked(tmp_path, monkeypatch, [BUSY], "--now", answer=answer)
    assert (result.exit_code, "is killed, and replaced" in result.stderr) == (0, True)


def test_what_is_in_hand_now_is_told_when_it_is_another_one(tmp_path, monkeypatch):
    """The sentence of the service, and how to look again."""
    why = "message m-7 is not in hand in Consumer 1 any more (it has m-8): nothing is done to it"
    problem = response("409 Conflict", json.dumps({"detail": why}).encode(), "application/problem+json")
    result, _ = asked(tmp_path, monkeypatch, [BUSY], "--now", answer=problem)
    assert isinstance(result.exception, CallError)
    assert (result.exception.code, str(result.exception)) == (
        Exit.USAGE,
        f"{why}; `mqworker stack 1 --stage energy` shows where it is",
    )
