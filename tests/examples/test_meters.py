"""The meters example: every row is a message, in order, through kills; the hour is summed up."""

import importlib
import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mqworker.testing import run_job, run_source
from tests.support.embedded import Client
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

EXAMPLE = Path(__file__).parents[2] / "examples" / "meters"
FILES = {name: (EXAMPLE / name).read_text() for name in ("meters.py", "generate.py")}


@pytest.fixture
def generate(monkeypatch):
    """Import the example's generator of data."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    for name in ("generate", "meters"):
        sys.modules.pop(name, None)
    yield importlib.import_module("generate")
    for name in ("generate", "meters"):
        sys.modules.pop(name, None)


def test_the_sources_alone(generate, tmp_path):
    """Readings go on behind a position; the sum is that of the hour before the tick."""
    path = str(tmp_path / "meters.db")
    generate.write(path, 30)
    items = run_source("meters:readings", {"database": path}, position=25, most=5, root=EXAMPLE)
    assert [item.position for item in items] == [26, 27, 28, 29, 30]
    assert all(item.body.keys() == {"meter", "at", "watts"} for item in items)
    soon = datetime.now(UTC) + timedelta(minutes=1)
    (sum_,) = run_source("meters:hour", {"database": path}, due=soon, root=EXAMPLE)
    assert sum_.body["readings"] == 30
    (nothing,) = run_source("meters:hour", {"database": path}, due=soon + timedelta(hours=2), root=EXAMPLE)
    assert nothing.body["readings"] == 0


def test_the_handler_alone():
    """Sums pass, and readings above the alarm."""
    assert run_job("meters:check", {"meter": "m", "at": 1.0, "watts": 4000}, root=EXAMPLE) is not None
    assert run_job("meters:check", {"meter": "m", "at": 1.0, "watts": 400}, root=EXAMPLE) is None
    assert run_job("meters:check", {"hour": "now"}, root=EXAMPLE) == {"hour": "now"}


@pytest.mark.system
def test_the_example_runs_through_kills(generate):
    """As in its README: rows that are there, rows that come, two kills, a run; each row once, in order."""
    toml = '[service]\nlog_format = "json"\n[control]\nport = 0\n' + (EXAMPLE / "mqworker.toml").read_text()
    toml += "[stages.check.params]\nalarm = 0.001\n"
    with ServiceProcess(toml, FILES) as service:
        path = str(service.folder / "meters.db")
        generate.write(path, 1000)
        service.start()
        for seed in (2, 3):
            for pid in service.named("mqw-source"):
                os.kill(pid, signal.SIGKILL)
            generate.write(path, 1000, seed)
        with Client(service) as client:
            wait_for(lambda: client.ready("findings") >= 2990, 90, "the results of 3,000 rows")
            wait_for(lambda: client.ready("readings") == 0, 30, "an empty input")
            ids = [result.properties.message_id for result in client.results("findings")]
            assert len(ids) == len(set(ids))
            numbers = [int(each.removeprefix("readings:")) for each in ids if each.startswith("readings:")]
            assert set(numbers) <= set(range(1, 3001))
            done = service.cli("sources", "run", "hours")
            assert done.returncode == 0, done.stderr
            wait_for(
                lambda: any("run-" in each.properties.message_id for each in client.results("findings")), 30, "the sum"
            )
            assert client.ready("readings.dlq") == 0
        assert service.stop() == 0
