"""Saved runs: what was measured, on which machine, by which versions; and a run compared with an earlier one.

A comparison is of the subject's medians, not of pairs: only a run of the same machine, left alone, can be told apart by
it. `scripts/bench --against REF` compares two commits within the same rounds.
"""

import datetime as dt
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.code import ROOT
from tests.benchmarks.figures import Case, read, shown

PYTHON = ROOT / ".venv-benchmarks/bin/python"
SLOWER = 0.97  # the ratio of a case to its earlier self, below which it counts as slower
SAME = "cpu", "cores", "memory_gb"  # what makes a machine the same one


class MachineDiffersError(Exception):
    """The saved run is of another machine, so its figures say nothing about this one."""


class Line(NamedTuple):
    """One case, then and now."""

    name: str
    what: str
    unit: str
    then: float
    now: float
    ratio: float  # above 1 is better now

    @property
    def slower(self) -> bool:
        """Whether it counts as slower."""
        return self.ratio < SLOWER


def document(cases: list[Case], broker: dict[str, str], peers: dict[str, str], **more: Any) -> dict[str, Any]:
    """Return a run as plain data; `broker` and `peers` are versions."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    head = {"date": now, "machine": machine(), "versions": versions() | broker | peers}
    return head | more | {"cases": [case.document() for case in cases]}


def machine() -> dict[str, Any]:
    """Return what is known of this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9, 1),
        "kernel": platform.release(),
    }


def versions() -> dict[str, str]:
    """Return the versions of mqworker, of Python and of what mqworker's Producers live on."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    told = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    libraries = {name: metadata.version(name) for name in ("pika", "msgspec")}
    return {"mqworker": told or metadata.version("mqworker"), "Python": platform.python_version()} | libraries


def installed(names: Sequence[str]) -> dict[str, str]:
    """Return the versions of those packages that the environment of the benchmark has."""
    ask = "import sys, importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep='\\n')"
    done = subprocess.run([PYTHON, "-c", ask, *names], capture_output=True, text=True, check=False)
    return dict(line.split() for line in done.stdout.splitlines())


def load(path: Path) -> dict[str, Any]:
    """Return a saved run."""
    return json.loads(path.read_text())


def compared(now: dict[str, Any], then: dict[str, Any]) -> list[Line]:
    """Return the cases that both have; MachineDiffersError if the other run is of another machine."""
    for key in SAME:
        if now["machine"][key] != then["machine"].get(key):
            raise MachineDiffersError(
                f"the saved run is of another machine ({key} {then['machine'].get(key)!r}, here"
                f" {now['machine'][key]!r}), so its figures say nothing about this one"
            )
    before = {case.name: case for case in map(read, then["cases"])}
    lines = []
    for case in map(read, now["cases"]):
        other = before.get(case.name)
        if other is not None and other.subject == case.subject:
            old, new = (statistics.median(one[each.subject] for one in each.rounds) for each in (other, case))
            better, worse = (old, new) if case.cost else (new, old)
            ratio = better / worse if worse else 1.0 if better == worse else float("inf")
            lines.append(Line(case.name, case.what, case.unit, old, new, ratio))
    return lines


def other_sizes(now: dict[str, Any], then: dict[str, Any]) -> str:
    """Return the sizes that differ, then and now, as text; "" if all are equal."""
    sizes, before = now.get("sizes", {}), then.get("sizes", {})
    return ", ".join(f"{name} {before.get(name)} -> {size}" for name, size in sizes.items() if before.get(name) != size)


def words(lines: list[Line]) -> str:
    """Return a readable table."""
    rows = [
        f"({line.name}) {line.what}: then {shown(line.then)}, now {shown(line.now)} {line.unit},"
        f" ratio {line.ratio:.3f}{'  SLOWER' if line.slower else ''}"
        for line in lines
    ]
    return "\n".join(rows or ["the two runs have no case in common"])
