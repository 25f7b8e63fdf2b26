"""The campaigns as tests: `scripts/chaos`, as a separate program, with a node and a proxy to break."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import rabbitmq

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]


def passes(module: str, *flags: str, timeout: float) -> None:
    """Run a campaign, whose seed is in what it prints."""
    if not rabbitmq.available() and not os.environ.get("CI"):
        pytest.skip("rabbitmq-server is not installed")
    command = [sys.executable, "-m", module, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    print(done.stdout[-20_000:], done.stderr)
    assert done.returncode == 0, done.stderr[-5000:]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("flags", [(), ("--broker", "foreign", "--controls", "no")], ids=["ours", "foreign"])
def test_nothing_is_lost_under_fire(flags, tmp_path):
    """Faults of every kind on three brokers lose nothing, and the checker notices what is broken on purpose.

    Nor do they where exchanges, policies and a small frame are as others have chosen.
    """
    passes("tests.chaos", "--quick", *flags, "--keep", str(tmp_path), timeout=880)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("broker", ["sqlite", "quorum"])
def test_an_order_is_kept_under_fire(broker):
    """First results leave in order, by key with `hold`, whatever is killed, cut, paused or scaled.

    On the embedded broker a build that publishes out of turn is seen.
    """
    controls = "yes" if broker == "sqlite" else "no"
    flags = ("--broker", broker, "--by", "key", "--on-failure", "hold", "--messages", "1500", "--controls", controls)
    passes("tests.chaos.ordered", *flags, timeout=580)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "flags", [("--broker", "classic"), ("--broker", "sqlite"), ("--broker", "classic", "--broken")]
)
def test_every_row_of_a_source_arrives_under_fire(flags):
    """Whoever is killed; where positions are stored before their items are confirmed, that is seen."""
    passes("tests.chaos.sources", *flags, "--rows", "10000", timeout=580)
