"""What a service holds at one moment, and what of it has grown: `scripts/rounds` compares such figures.

`count` looks at /proc, /dev/shm and the service's folders; the rest is pure. Memory is the proportional set size of
what no file on disk stands behind: of mapped files a process has a larger share when some other program ends.
"""

import contextlib
import os
from collections import Counter
from pathlib import Path

from tests.support.service import SEMAPHORES, ServiceProcess

MEMORY = "KiB of memory"
MAPPINGS = "mappings"
DESCRIPTORS = "descriptors"
THREADS = "threads"
TRACKER = "resource tracker of multiprocessing"
ALLOWED = {MEMORY: 4096, MAPPINGS: 32}  # by how much a figure may grow, as the allocator asks for more; others may not


def count(service: ServiceProcess, temporary: Path) -> Counter[str]:
    """Return all figures, by what is counted."""
    found: Counter[str] = Counter()
    pids = service.pids()
    own = service.process.pid if service.process is not None else 0
    for pid, comm in pids.items():
        name = "Service" if pid == own else TRACKER if comm == "python" else comm
        found[f"processes: {name}"] += 1
        with contextlib.suppress(OSError):
            found[f"{DESCRIPTORS}: {name}"] += _entries(f"/proc/{pid}/fd")
            found[f"{THREADS}: {name}"] += _entries(f"/proc/{pid}/task")
            found[f"{MAPPINGS}: {name}"] += len(Path(f"/proc/{pid}/maps").read_text().splitlines())
            found[f"{MEMORY}: {name}"] += _memory(pid)
    found["zombies"] = sum(parent in pids for parent in _zombies())
    found["semaphores and shared memory in /dev/shm"] = len(list(SEMAPHORES.glob(f"*{service.mark}*")))
    found["semaphores of nobody"] = len(service.leaked_semaphores())
    found["temporary files"] = sum(len(files) + len(folders) for _, folders, files in os.walk(temporary))
    state = service.folder / ".mqworker"
    for where, _, files in os.walk(state):
        at = Path(where).relative_to(state).parts
        found[f"files in state_dir{'/' + at[0] if at else ''}"] += len(files)
    return found


def _entries(folder: str) -> int:
    return len(list(Path(folder).iterdir()))


def _memory(pid: int) -> int:
    """Return the KiB of it that are behind no file on disk."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
    return sum(int(words[1]) for words in lines if words[0] in {"Pss_Anon:", "Pss_Shmem:"})


def _zombies() -> list[int]:
    """Return the parents of all zombies of the machine."""
    found = []
    for name in filter(str.isdigit, (path.name for path in Path("/proc").iterdir())):
        with contextlib.suppress(OSError):
            state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
            if state == "Z":
                found.append(int(parent))
    return found


def reference(before: Counter[str], middle: Counter[str]) -> Counter[str]:
    """Return what the figures at the end are compared with: those before, but the memory in the middle.

    In the first half each process reaches its peak, which the allocator keeps, and fills its caches (SQLite's have 2 MB
    per connection); a leak goes on in the second half.
    """
    return Counter({**before, **{what: count for what, count in middle.items() if what.startswith(MEMORY)}})


def grown(before: Counter[str], after: Counter[str]) -> list[str]:
    """Return what has become more than it may, a sentence for each."""
    return [
        f"{what}: {before[what]:,} before, {after[what]:,} after"
        for what in sorted(after)
        if after[what] > before[what] + ALLOWED.get(what.partition(":")[0], 0)
    ]


def table(columns: dict[str, Counter[str]]) -> str:
    """Return the figures as Markdown, a row for each."""
    names = sorted({what for column in columns.values() for what in column})
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {what} | {' | '.join(f'{column[what]:,}' for column in columns.values())} |" for what in names]
    return "\n".join(lines)
