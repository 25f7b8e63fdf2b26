"""A state folder that an earlier version left behind, as found, and what becomes of all that is in it."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.embedded import Client, config, steady
from tests.support.service import ServiceProcess

pytestmark = pytest.mark.system

OLD = Path(__file__).parent / "state_5e03c69"
SLOTS = 131_072  # bytes of that version's slot file, nearly all of them zero
HANDLER = "def handle(body, params):\n    return {'n': body['n'], 'params': dict(params)}\n"


def leave_behind(service: ServiceProcess) -> Path:
    """Make the state folder as version 5e03c69 left it when it was killed, for the second time, with two messages."""
    folder = service.folder / ".mqworker"
    folder.mkdir(mode=0o700)
    for name in ("desired.json", "work.suspects"):
        shutil.copyfile(OLD / name, folder / name)
    (folder / "work.slots").write_bytes(bytes.fromhex((OLD / "work.slots.hex").read_text()).ljust(SLOTS, b"\0"))
    with closing(sqlite3.connect(folder / "broker.db")) as db:
        db.executescript((OLD / "broker.sql").read_text())
    return folder


def test_a_state_folder_of_an_earlier_version_is_taken_over(service):
    """Live values hold, the messages in hand are done, and nothing is complained about or put aside."""
    running = service(config("params = { factor = 1 }"), {"jobs.py": HANDLER})
    folder = leave_behind(running)
    running.start()
    desired = running.stage("work")["desired"]
    assert (desired["consumers"], desired["params"], desired["generation"]) == (3, {"factor": 2}, 6)
    assert desired["time_limit"] == {"soft": 0.0, "hard": 500.0}
    assert running.ask("GET", "/api/v1/stages/work/params")[1]["history"][0] == {
        "generation": 1,
        "params": {"factor": 1},
    }
    with Client(running) as client:
        client.sent = 2
        assert {result.body["params"]["factor"] for result in client.finish()} == {2}
    steady(running)
    assert running.stop() == 0
    assert not list(folder.glob("*.damaged"))
    told = {(event["event"], event["level"]) for event in running.events()}
    assert not {level for _, level in told} & {"warning", "error"}, told
