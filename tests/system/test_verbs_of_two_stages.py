"""What the verbs print for a service with two stages, on the embedded broker; a user can type what a hint says."""

import re
import subprocess
from pathlib import Path

import msgspec
import pytest

from mqworker.exits import Exit
from tests.support.cli import MQWORKER, environment, mqworker, service

pytestmark = pytest.mark.system

STAGES = """
[stages.first]
input = "first"
jobs = ["jobs:same"]
output = "second"
codec = "msgpack"
consumers = 1

[stages.second]
input = "second"
jobs = ["jobs:refuse"]
consumers = 1
"""
JOBS = """
from mqworker import Reject


def same(body):
    return body


def refuse(body):
    raise Reject("never")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    (folder / "mqworker.toml").write_text(STAGES)
    (folder / "jobs.py").write_text(JOBS)
    return folder


def test_binary_input_dead_letters_and_no_consumers(project, tmp_path):
    """Binary stdin is one message; the hint of `dlq list` works as printed; `dlq show` has headers; 0 is remarked."""
    body = msgspec.msgpack.encode({"data": b"one\n\ntwo\r\n", "n": 10})
    file = tmp_path / "body"
    file.write_bytes(body)
    with service(project):
        send = [*MQWORKER, "send", "--stage", "second", "--wait", "--content-type"]
        for content_type in ("application/msgpack", "application/octet-stream"):
            with file.open("rb") as stdin:
                done = subprocess.run(
                    [*send, content_type],
                    cwd=project,
                    env=environment(),
                    stdin=stdin,
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                )
            assert done.returncode == Exit.INTERNAL, done.stderr
            assert "the message is dead (reject)" in done.stderr

        listed = mqworker("dlq", "list", cwd=project)
        assert "2 dead; " in listed.stderr
        hint = re.search(r"`mqworker (dlq show [^`]+)`", listed.stderr)
        assert hint is not None
        shown = mqworker(*hint[1].split(), cwd=project)
        assert shown.returncode == Exit.OK, shown.stderr
        assert re.search(r"^header x-mqworker-stage: second$", shown.stdout, re.MULTILINE)
        assert "header x-mqworker-reason" not in shown.stdout  # it is shown as `reason`
        assert f"size:             {len(body)}\n" in shown.stdout
        assert "--stage second" in mqworker("dlq", "list", "--stage", "second", cwd=project).stderr

        assert "nothing computes now" not in mqworker("scale", "2", "--stage", "first", cwd=project).stderr
        scaled = mqworker("scale", "-5", "--stage", "first", cwd=project)
        assert "first: 0 Consumers" in scaled.stderr
        assert "first: nothing computes now" in scaled.stderr
