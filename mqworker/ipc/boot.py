"""The kernel's boot id: CLOCK_MONOTONIC times and process ids mean nothing beyond it. Runs in every process."""

import functools
from pathlib import Path


@functools.cache
def boot_id() -> str:
    """Return what is different after each boot (a UUID)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
