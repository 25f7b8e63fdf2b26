"""Finds where the kernel has the limits and usage of this process's control groups, in both versions.

Reads files, owns nothing. What cannot be read is left out: a container may see its own group as the root, while its
path is one of the host that does not exist inside.
"""

import os
from collections.abc import Iterator
from pathlib import Path

MOUNTED = Path("/sys/fs/cgroup")
OURS = Path("/proc/self/cgroup")


def control_groups(controller: str, mounted: Path = MOUNTED, ours: Path = OURS) -> Iterator[Path]:
    """Yield the folders of our control groups and their parents, which may limit what a controller counts."""
    for line in read(ours).split("\n"):
        controllers, _, path = line.partition(":")[2].partition(":")
        if not path or (controllers and controller not in controllers.split(",")):
            continue
        tops = (mounted / controllers, mounted / controller) if controllers else (mounted, mounted / "unified")
        for top in tops:
            group = top / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def read(path: Path) -> str:
    """Return the content of a file, "" if it cannot be read."""
    try:
        return os.fsdecode(path.read_bytes())
    except OSError:
        return ""
