"""How the Service gets memory for large blocks: directly from the kernel, and returned as soon as it is free.

Called once on the main thread, before there are other threads. By default, once large blocks have been freed, glibc
keeps such blocks, and up to 64 MiB of each of its arenas. The server's threads use many arenas, so requests with large
bodies would let the Service grow to hundreds of MiB for good. With other C libraries (musl), this does nothing.
"""

import contextlib
import ctypes

M_MMAP_THRESHOLD = -3  # of <malloc.h>
LARGE = 1 << 20  # bytes


def give_back_large_blocks() -> None:
    """Make each block of 1 MiB or more a mapping of its own."""
    with contextlib.suppress(AttributeError):  # there is no mallopt
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
