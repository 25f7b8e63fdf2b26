"""Files that two processes have mapped: what one writes the other reads, also once the first is dead."""

import mmap
import os
from pathlib import Path


def map_private(path: Path, size: int) -> mmap.mmap:
    """Map a file of `size` bytes that only this user may open, made if there is none; raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)  # on a full disk this fails now, instead of a SIGBUS at some later write
        return mmap.mmap(fd, size)
    finally:
        os.close(fd)
