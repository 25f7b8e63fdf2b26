"""A test process that gets no more memory."""

import contextlib
import gc
import resource
from collections.abc import Iterator
from pathlib import Path

SPARE = 8 << 20  # bytes, for what is small
LARGE = 31 << 20  # bytes of what the allocator may still have from before, and would give out again


def virtual_memory(pid: int | str = "self") -> int:
    """Return how much of its address space a process uses, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


@contextlib.contextmanager
def no_more_memory() -> Iterator[None]:
    """Let every allocation of 32 MiB or more fail in this process, and in no other."""
    gc.collect()  # what is freed later could be allocated again
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (virtual_memory() + SPARE, before[1]))
    taken = []
    try:
        with contextlib.suppress(MemoryError):
            while True:
                taken.append(bytearray(LARGE))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
