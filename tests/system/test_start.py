"""The start of a service: what overlaps, and what waits for what."""

from pathlib import Path

import pytest

from tests.support.embedded import Client, config
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

DEADLINE = 30.0
GATED = """\
import time
from pathlib import Path
while not Path(__file__).with_name("go").exists():
    time.sleep(0.01)
def handle(body):
    return {"n": body["n"]}
"""
NO_TICKS = "producer.timers:QUIET=3600"


def test_the_first_message_waits_neither_for_a_producer_nor_for_periodic_work(service):
    """A Producer is there while the code is checked, and touches nothing; then a Consumer that is ready gets work."""
    starting = service(config(consumers=1), {"jobs.py": GATED}, MQWORKER_TEST_TIME=NO_TICKS)
    with Client(starting) as client:
        client.send(1)
        starting.start(ready=None)
        [producer] = wait_for(lambda: starting.named("mqw-producer"), DEADLINE, "a Producer")
        wait_for(lambda: starting.named("mqw-check"), DEADLINE, "the check")
        opened = {str(path.readlink()) for path in Path(f"/proc/{producer}/fd").iterdir()}
        assert not [path for path in opened if "broker.db" in path or path.startswith("socket:")]
        starting.write("go", "")
        client.finish()
        assert starting.named("mqw-producer") == [producer]
    assert starting.stop() == 0
