"""What a large shared object costs: `.venv/bin/python -m tests.benchmarks.large_state`, with nothing else running.

Prints the longest call while a snapshot of 1,000,000 keys is written beside the work, with memory and disk; and the
memory of what is remembered after 36 million calls whose messages were settled (an hour at 10,000/s), into the store
alone.
"""

import argparse
import asyncio
import os
import tempfile
import threading
import time
from pathlib import Path

from mqworker.ipc.proc import rss
from mqworker.shared_state.client import SharedClient
from mqworker.shared_state.identity import message_key
from mqworker.shared_state.memory import CallMemory
from mqworker.shared_state.messages import TakeSnapshot
from tests.support.shared_object import NAME, Shared

TOGETHER = 4096


async def snapshot(folder: Path, keys: int) -> None:
    """Call without a pause, before and while a snapshot is made."""
    shared = await Shared(folder).start()
    filling = SharedClient(folder, NAME, "s")
    await asyncio.to_thread(filling.call, "fill", keys)
    longest, calls, ended = [0.0], [0], threading.Event()

    def call() -> None:
        client = SharedClient(folder, NAME, "s")
        number = 0
        while not ended.is_set():
            client.begin(message_key(f"{number}", b"body"), has_id=True)
            began = time.monotonic()
            client.call("get", "filled 7")
            longest[-1] = max(longest[-1], time.monotonic() - began)
            calls[-1] += 1
            number += 1

    caller = threading.Thread(target=call)
    caller.start()
    await asyncio.sleep(3.0)
    longest.append(0.0)
    calls.append(0)
    before, began = shared.status.snapshots, time.monotonic()
    shared.child.send(TakeSnapshot())
    await shared.until(lambda: shared.status.snapshots > before, "a snapshot")
    seconds = time.monotonic() - began
    ended.set()
    await asyncio.to_thread(caller.join)
    size = sum(path.stat().st_size for path in shared.folder.iterdir())
    print(f"{keys:,} keys: {rss(shared.status.pid) / 2**20:.0f} MiB, {size / 2**20:.0f} MiB on disk after the snapshot")
    print(f"longest of {calls[0]:,} calls in 3 s without a snapshot: {longest[0] * 1000:.1f} ms")
    print(f"longest of {calls[1]:,} calls in the {seconds:.1f} s of one: {longest[1] * 1000:.1f} ms")
    await shared.child.stop("measured", 20.0)


def remembered(count: int) -> None:
    """Store calls, and settle their messages a little later."""
    memory, began, before = CallMemory(), time.process_time(), rss(os.getpid())
    link, answer = message_key("link", b""), b"\1"
    waiting: list[bytes] = []
    for number in range(count):
        message = message_key(f"{number}", b"body")
        memory.store("s", message, link, answer, number / 10_000)
        waiting.append(message)
        if len(waiting) == TOGETHER:
            memory.settled("s", waiting)
            waiting = []
            memory.expire(number / 10_000)
    grown = (rss(os.getpid()) - before) / 2**20
    seconds = time.process_time() - began
    print(
        f"{count:,} calls remembered and settled: {len(memory):,} records left, {grown:.0f} MiB, {seconds:.0f} s of CPU"
    )


def main() -> None:
    """See the module head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--calls", type=int, default=36_000_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mqw-large-") as folder:
        asyncio.run(snapshot(Path(folder), asked.keys))
    remembered(asked.calls)


if __name__ == "__main__":
    main()
