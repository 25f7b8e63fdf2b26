"""Which queue `receive` takes results from, when none is named."""

import json

import pytest

from mqworker.cli.receive import _readable
from mqworker.exits import Exit
from tests.support.cli import mqworker
from tests.support.tiny_http import response, tiny_server

ENDS = {"decode": ["store"], "store": [], "mail": []}  # a line of two, and a stage alone
BOTH = {"decode": "b", "store": "out"}


@pytest.mark.parametrize(
    ("outputs", "arguments", "told"),
    [
        ({"mail": "sent"}, (), "0 received from sent"),
        (BOTH, (), "0 received from out"),
        (BOTH, ("--stage", "store"), "0 received from out"),
        (BOTH | {"mail": "out"}, (), "0 received from out"),
        (BOTH, ("b",), "0 received from b"),
        (BOTH, ("--stage", "decode"), "go to other stages (store); name a QUEUE"),
        ({"decode": "b"}, (), "go to other stages (store); name a QUEUE"),
        (BOTH | {"mail": "sent"}, (), "several queues with results (out, sent)"),
        (BOTH | {"mail": "sent"}, ("--stage", "mail"), "0 received from sent"),
        ({}, (), "No output queue is configured"),
    ],
)
def test_results_are_those_that_no_stage_takes(tmp_path, outputs, arguments, told):
    """The output of the stage, or of the last one of the line; what is not clear is asked for, and nothing is taken."""
    line = [{"name": name, "level": 0, "feeds": feeds, "here": True} for name, feeds in ENDS.items()]
    rows = [{"name": queue, "stage": stage, "role": "output"} for stage, queue in outputs.items()]
    rows += [{"name": "in", "stage": stage, "role": "input"} for stage in ENDS]

    def answer(head: bytes) -> bytes:
        if head.startswith(b"POST"):
            return response("200 OK", b'{"messages": []}')
        whole = {"stages": [], "line": line} if b"/status" in head else {"queues": rows}
        return response("200 OK", json.dumps(whole).encode())

    with tiny_server(tmp_path / "s", answer) as server:
        done = mqworker("receive", *arguments, "--socket", "s", cwd=tmp_path)
        taken = [head for head in server.requests if head.startswith(b"POST")]
    assert told in done.stderr
    assert (done.returncode, len(taken)) == ((Exit.OK, 1) if told.startswith("0 received") else (Exit.USAGE, 0))


@pytest.mark.parametrize(
    ("body", "plain", "line"),
    [
        (b'{"n": 1}', False, '{"n": 1}'),
        (b'{\n "n": 1\n}', False, '{"n": 1}'),
        (b'{\n "n": "\\ud800"\n}', False, '{"n": "\\ud800"}'),
        (b"[\n1e999]", False, None),
        (b"not JSON", False, None),
        (b"[" * 100_000, False, None),
        (b"\xff", True, None),
        (b"one line", True, "one line"),
        (b"two\nlines", True, None),
    ],
)
def test_a_body_is_one_line_or_base64(body, plain, line):
    """JSON over several lines is put on one; text is not."""
    assert _readable(body, plain=plain) == line
