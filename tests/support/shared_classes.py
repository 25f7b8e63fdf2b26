"""Classes that tests share, as users would write them."""

import os
import signal
import time
from typing import Any


class Tally:
    """Counts by key; every entry that tests look at must end as 1."""

    def __init__(self) -> None:
        self.entries: dict[str, int] = {}
        self.ticks = 0

    def handle(self, event: Any) -> Any:
        key = f"link {event['id']}"
        self.entries[key] = self.entries.get(key, 0) + 1
        return event

    def add(self, key: str) -> int:
        self.entries[key] = self.entries.get(key, 0) + 1
        return len(self.entries)

    def get(self, key: str) -> int:
        return self.entries.get(key, 0)

    def all(self) -> dict[str, int]:
        return self.entries

    def fail(self, key: str) -> None:
        self.add(key)
        raise ValueError(f"no room for {key}")

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fill(self, count: int) -> None:
        self.entries.update((f"filled {number}", 1) for number in range(count))

    def fork(self, flag: str) -> int:
        """Fork a copy that goes on as long as a file is there, a minute at most, and then returns like this one."""
        pid = os.fork()
        end = time.monotonic() + 60
        while pid == 0 and os.path.exists(flag) and time.monotonic() < end:  # noqa: PTH110 - short
            time.sleep(0.01)
        return pid

    def tick(self, now: float) -> None:
        self.ticks += 1

    def describe(self) -> dict[str, Any]:
        return {"entries": len(self.entries), "wrong": sum(count != 1 for count in self.entries.values())}
