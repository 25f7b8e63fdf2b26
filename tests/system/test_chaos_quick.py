"""The campaigns as tests: `scripts/chaos`, as a separate program, with a node and a proxy to break.

Short ones run with all tests; those marked `release`, with controls, by `scripts/test --release`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import rabbitmq

ROOT = Path(__file__).parents[2]
HOLD = ("--by", "key", "--on-failure", "hold")
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
def test_nothing_is_lost_under_fire(tmp_path):
    """Faults of every kind on three brokers lose nothing, under a load that leaves something of the processors."""
    load = ("--seconds", "4", "--warm-up", "1", "--work", "0.004")
    passes("tests.chaos", "--quick", *load, "--controls", "no", "--keep", str(tmp_path), timeout=380)


@pytest.mark.long
@pytest.mark.parametrize("broker", ["sqlite", "quorum"])
def test_an_order_is_kept_under_fire(broker):
    """First results leave in order, by key with `hold`, whatever is killed, cut, paused or scaled."""
    passes("tests.chaos.ordered", "--broker", broker, *HOLD, "--messages", "400", "--controls", "no", timeout=380)


@pytest.mark.long
def test_every_row_of_a_source_arrives_under_fire():
    """Whoever is killed."""
    kills = ("--sources", "5", "--producers", "2", "--services", "1", "--brokers", "1", "--freezes", "0")
    passes("tests.chaos.sources", "--broker", "classic", "--rows", "4000", *kills, timeout=380)


@pytest.mark.release
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("module", "flags"),
    [
        ("chaos", ("--quick",)),
        ("chaos", ("--quick", "--broker", "foreign", "--controls", "no")),
        ("chaos.ordered", ("--broker", "sqlite", *HOLD, "--messages", "1500")),
        ("chaos.ordered", ("--broker", "quorum", *HOLD, "--messages", "1500", "--controls", "no")),
        ("chaos.sources", ("--broker", "classic", "--rows", "10000")),
        ("chaos.sources", ("--broker", "sqlite", "--rows", "10000")),
        ("chaos.sources", ("--broker", "classic", "--rows", "10000", "--broken")),
        ("chaos.lines", ("--lines", "20000", "--kills", "3")),
    ],
)
def test_a_campaign_keeps_every_promise_and_sees_what_is_broken(module, flags, tmp_path):
    """Longer, also where exchanges, policies and a small frame are as others have chosen, with negative controls."""
    keep = ("--keep", str(tmp_path)) if module == "chaos" else ()
    passes(f"tests.{module}", *flags, *keep, timeout=880)
