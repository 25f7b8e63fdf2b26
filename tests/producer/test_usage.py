"""What Consumers use, as the kernel tells: of real processes."""

import subprocess
import sys
from types import SimpleNamespace

from mqworker.producer.usage import EVERY, Usage
from tests.support.waiting import wait_for


def test_cpu_and_memory_are_those_of_the_process_and_add_up_over_a_slots_consumers():
    """A stuck one's figures are fresh, a dead one's stay; a look costs nothing before it is due."""
    spin = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    lane = SimpleNamespace(number=1, slot=3, pid=spin.pid, cpu=0.0, rss=0)
    usage, now = Usage(), 100.0

    def used() -> bool:
        nonlocal now
        now += EVERY
        usage.look([lane], now)
        return lane.cpu > 0.05

    try:
        wait_for(used, 30, "CPU to be used")
        assert lane.rss > 1 << 20
        assert usage.counters == {"cpu_ms_3": round(lane.cpu * 1000)}
        before, lane.cpu = lane.cpu, 0.0
        usage.look([lane], now + EVERY / 2)
        assert lane.cpu == 0.0, "it was not due"
        lane.cpu = before
    finally:
        spin.kill()
        spin.wait()
    usage.look([lane], now + EVERY)
    assert lane.cpu == before, "a process that is gone keeps what it had used"
    after = SimpleNamespace(number=2, slot=3, pid=spin.pid, cpu=2.0, rss=0)
    usage.look([after], now + 2 * EVERY)
    assert usage.counters == {"cpu_ms_3": round((before + 2.0) * 1000)}
