"""How the Service gets memory for what is large: directly from the kernel, which has it back as soon as it is free.

Called once on the main thread, before there are others. By itself, glibc learns from the first large blocks that are
freed to keep such blocks, and up to 64 MiB of each of its arenas; the server's threads use many arenas, so requests
with large bodies let the Service grow to hundreds of MiB for good. Elsewhere (musl) nothing is done.
"""

import contextlib
import ctypes

M_MMAP_THRESHOLD = -3  # of <malloc.h>
LARGE = 1 << 20  # bytes


def give_back_large_blocks() -> None:
    """Let each block from 1 MiB on be a mapping of its own."""
    with contextlib.suppress(AttributeError):  # there is no mallopt
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
