"""`mqworker replace`, against a server that keeps what it was asked for."""

import json

import pytest
from click.testing import CliRunner

from mqworker.address import CallError
from mqworker.cli.consumers import replace
from mqworker.exits import Exit
from tests.support.tiny_http import response, tiny_server

ASKED = ["1", "--stage", "energy", "--socket", "s"]
BUSY = {"slot": 1, "pid": 42, "state": "busy", "seq": 7, "message_id": "m-7"}
OTHERS = [BUSY | {"slot": 0, "pid": 40, "seq": 6, "message_id": "m-6"}, BUSY | {"pid": 41, "state": "leaving"}]


def asked(folder, monkeypatch, consumers, *more, answer=None):
    """Run the verb where a stage has these Consumers; returns its result, and the body of what it asked for."""
    monkeypatch.chdir(folder)
    view = {"actual": None if consumers is None else {"consumers": consumers}}
    done = response("202 Accepted", b'{"slot": 1, "pid": 42, "now": true}')

    def reply(head: bytes) -> bytes:
        return response("200 OK", json.dumps(view).encode()) if head.startswith(b"GET ") else answer or done

    with tiny_server(folder / "s", reply) as server:
        result = CliRunner().invoke(replace, [*ASKED, *more])
    return result, json.loads(server.bodies[-1])


@pytest.mark.parametrize(
    ("consumers", "more", "body", "told"),
    [
        ([*OTHERS, BUSY], ["--now"], {"pid": 42, "message_id": "m-7", "seq": 7}, "message m-7 is charged with a crash"),
        (
            [BUSY | {"message_id": None}],
            ["--now"],
            {"pid": 42, "seq": 7},
            "its message in hand is charged with a crash",
        ),
        ([BUSY | {"message_id": "m" * 256}], ["--now"], {"pid": 42, "seq": 7}, f"message {'m' * 256} is charged"),
        (
            [BUSY | {"state": "idle", "seq": 0, "message_id": None}],
            ["--now"],
            {"pid": 42, "seq": 0},
            "it had nothing in hand",
        ),
        (OTHERS[:1], ["--now"], {"seq": 0}, "it had nothing in hand"),
        (None, ["--now"], {"seq": 0}, "it had nothing in hand"),
        ([BUSY], ["--now", "--message", "m-5"], {"message_id": "m-5"}, "message m-5 is charged with a crash"),
        ([BUSY], ["--message", "m-5"], {"message_id": "m-5"}, "leaves when it has finished what it has"),
        ([BUSY], [], {}, "leaves when it has finished what it has"),
    ],
)
def test_only_the_message_that_was_seen_is_killed(tmp_path, monkeypatch, consumers, more, body, told):
    """The verb names the Consumer's process and message, or the one that the user has seen, and tells which it was."""
    result, sent = asked(tmp_path, monkeypatch, consumers, *more)
    assert (result.exit_code, sent) == (Exit.OK, {"now": "--now" in more} | body)
    assert told in result.stderr


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
