"""1 ms of CPU time for each line of a file, results in order: `mqworker map`, multiprocessing.Pool.imap, GNU parallel.

Each is a whole program that reads a file, decodes each line, computes it in two processes and writes the results in
order. What it takes to start and end is measured by a short file, and does not count.

`python -m tests.benchmarks.lines pool|worker` are the programs of the other two; without an argument all are compared.
"""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks import code as copies
from tests.benchmarks.handlers import burn

ROOT = Path(__file__).parents[2]
PROCESSES = 2
CHUNK = 16  # lines
BLOCK = 1_000  # lines that one process of parallel computes
FEW = 200  # lines of the short file


def programs(code: Path) -> dict[str, list[str]]:
    """Return what computes `in` to `out`, by name; parallel only if it is installed."""
    python = [sys.executable, "-m"]
    ours = [*python, "mqworker", "map", "handlers:burn", "-i", "in", "-o", "out", "-n", str(PROCESSES)]
    found = {"mqworker": ours, "Pool.imap": [*python, "tests.benchmarks.lines", "pool"]}
    if parallel := shutil.which("parallel"):
        worker = f"{sys.executable} -m tests.benchmarks.lines worker"
        found["parallel"] = [
            "sh",
            "-c",
            f"{parallel} --will-cite --pipe -k -N {BLOCK} -j {PROCESSES} '{worker}' < in > out",
        ]
    path = f"{code}:{ROOT}"
    return {name: ["env", f"PYTHONPATH={path}", *command] for name, command in found.items()}


def rates(code: Path, count: int) -> dict[str, Callable[[], float]]:
    """Return what measures each in lines a second."""
    began = time.perf_counter()
    burn({"id": 0, "loops": 300_000})
    loops = int(300_000 * 0.001 / (time.perf_counter() - began))
    return {name: lambda command=command: _rate(command, count, loops) for name, command in programs(code).items()}


def _rate(command: list[str], count: int, loops: int) -> float:
    return (count - FEW) / (_seconds(command, count, loops) - _seconds(command, FEW, loops))


def _seconds(command: list[str], count: int, loops: int) -> float:
    """Return how long it takes; AssertionError unless each result is right and in its place."""
    with TemporaryDirectory(prefix="mqw-bench-") as name:
        folder = Path(name)
        shutil.copy(Path(__file__).with_name("handlers.py"), folder)
        lines = [json.dumps({"id": number, "loops": loops}) for number in range(count)]
        (folder / "in").write_text("\n".join(lines))
        began = time.monotonic()
        subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        answers = [json.loads(line) for line in (folder / "out").read_text().splitlines()]
        assert answers == [{"id": number, "total": answers[0]["total"]} for number in range(count)]
    return seconds


def pool() -> None:
    """Compute the file by a process pool."""
    with (
        multiprocessing.get_context("spawn").Pool(PROCESSES) as workers,
        Path("in").open() as source,
        Path("out").open("w") as target,
    ):
        target.writelines(workers.imap(_line, source, CHUNK))
        target.flush()
        os.fsync(target.fileno())


def worker() -> None:
    """Compute the lines of stdin."""
    for line in sys.stdin:
        sys.stdout.write(_line(line))


def _line(line: str) -> str:
    return json.dumps(burn(json.loads(line))) + "\n"


def main() -> None:
    """Compare once and again."""
    with TemporaryDirectory(prefix="mqw-bench-") as folder:
        measured = rates(copies.present(Path(folder) / "now"), int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
        for _ in range(3):
            found = {name: measure() for name, measure in measured.items()}
            told = ", ".join(f"{name} {rate:,.0f} lines/s" for name, rate in found.items())
            print(f"{told}; mqworker/Pool {found['mqworker'] / found['Pool.imap']:.3f}", flush=True)


if __name__ == "__main__":
    {"pool": pool, "worker": worker}.get(sys.argv[1] if len(sys.argv) > 1 else "", main)()
