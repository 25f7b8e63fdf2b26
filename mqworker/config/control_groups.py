"""Where the kernel keeps the limits and the use of the control groups that this process is in, of both versions.

Reads files, owns nothing. What cannot be read is left out: a container may see its own group as the top, under a path
of the host that does not exist inside.
"""

import os
from collections.abc import Iterator
from pathlib import Path

MOUNTED = Path("/sys/fs/cgroup")
OURS = Path("/proc/self/cgroup")


def control_groups(controller: str, mounted: Path = MOUNTED, ours: Path = OURS) -> Iterator[Path]:
    """Yield the folders of our control groups, and of those around them, that may limit what a controller counts."""
    for line in read(ours).split("\n"):
        controllers, _, path = line.partition(":")[2].partition(":")
        if not path or (controllers and controller not in controllers.split(",")):
            continue
        tops = (mounted / controllers, mounted / controller) if controllers else (mounted, mounted / "unified")
        for top in tops:
            group = top / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def read(path: Path) -> str:
    """Return what is in a file, "" if it cannot be read."""
    try:
        return os.fsdecode(path.read_bytes())
    except OSError:
        return ""
