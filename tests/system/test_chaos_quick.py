"""The campaign as a test: `scripts/chaos --quick`, as a separate program, with a node and a proxy to break."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import rabbitmq

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("flags", [(), ("--broker", "foreign", "--controls", "no")], ids=["ours", "foreign"])
def test_nothing_is_lost_under_fire(flags, tmp_path):
    """Faults of every kind on three brokers lose nothing, and the checker notices what is broken on purpose.

    Nor do they where exchanges, policies and a small frame are as others have chosen.
    """
    if not rabbitmq.available() and not os.environ.get("CI"):
        pytest.skip("rabbitmq-server is not installed")
    command = [sys.executable, "-m", "tests.chaos", "--quick", *flags, "--keep", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=880, check=False)
    print(done.stdout[-20_000:], done.stderr)  # the seed is in there
    assert done.returncode == 0, done.stderr[-5000:]
