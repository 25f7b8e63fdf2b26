"""The lines of a file, results in order: `mqworker map`, multiprocessing.Pool.imap, GNU parallel.

Two kinds of work: a function in Python that takes 1 ms of CPU time for a line, and a small program (`cat`) that is
started for each line. Each contestant is a whole program that reads a file, computes it in two processes and writes the
results in order. What it takes to start and end is measured by a short file, and does not count. mqworker syncs what it
has written and can go on after a kill; Pool's program syncs once, parallel's not at all.

Each works as it works best. The function runs in processes that stay with mqworker and with Pool; parallel can only
start programs, so it starts a script (nothing imported but json) for each thousand lines. The program is started for
each line by all three.

`python -m tests.benchmarks.lines pool|pool-of-programs` is Pool's program; without an argument all are compared.
"""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks import code as copies
from tests.benchmarks.bodies import loops as loops_of
from tests.benchmarks.handlers import burn
from tests.benchmarks.rounds import Run

ROOT = Path(__file__).parents[2]
PROCESSES = 2
CHUNK = 16  # lines
BLOCK = 1_000  # lines for which parallel starts one script
FEW = 200  # lines of the short file
FUNCTION, PROGRAM = "function", "program"  # the kinds of work
CONFIG = '[stages.copy]\ninput = "in"\njobs = [{ exec = ["cat"] }]\n'


def programs(code: Path, work: str) -> dict[str, list[str]]:
    """Return what computes `in` to `out`, by name; parallel only if it is installed."""
    python = [sys.executable, "-m"]
    job, pool_program = ("handlers:burn", "pool") if work == FUNCTION else ("copy", "pool-of-programs")
    ours = [*python, "mqworker", "map", job, "-i", "in", "-o", "out", "-n", str(PROCESSES)]
    found = {"mqworker": ours, "Pool.imap": [*python, "tests.benchmarks.lines", pool_program]}
    if parallel := shutil.which("parallel"):
        script = Path(__file__).with_name("parallel_worker.py")
        lines, command = (BLOCK, f"{sys.executable} {script}") if work == FUNCTION else (1, "cat")
        told = f"{parallel} --will-cite --pipe -k -N {lines} -j {PROCESSES} '{command}' < in > out"
        found["parallel"] = ["sh", "-c", told]
    path = f"{code}:{ROOT}"
    return {name: ["env", f"PYTHONPATH={path}", *command] for name, command in found.items()}


def rates(code: Path, count: int, work: str = FUNCTION) -> dict[str, Callable[[], float]]:
    """Return what measures each in lines a second."""
    loops = loops_of(1)
    contestants = programs(code, work)
    return {name: lambda command=command: _rate(command, count, loops, work) for name, command in contestants.items()}


def runs(code: Path, count: int, work: str) -> dict[str, Run]:
    """Return them as contestants."""
    return {name: partial(_figures, rate) for name, rate in rates(code, count, work).items()}


def _figures(measured: Callable[[], float]) -> tuple[float]:
    return (measured(),)


def _rate(command: list[str], count: int, loops: int, work: str) -> float:
    few = min(FEW, count // 10)
    took = seconds(command, count, loops, work) - seconds(command, few, loops, work)
    assert took > 0, f"{count} lines took no longer than {few}"
    return (count - few) / took


def seconds(command: list[str], count: int, loops: int, work: str) -> float:
    """Return how long it takes; AssertionError unless each result is right and in its place."""
    with TemporaryDirectory(prefix="mqw-bench-") as name:
        folder = Path(name)
        shutil.copy(Path(__file__).with_name("handlers.py"), folder)
        (folder / "mqworker.toml").write_text(CONFIG)
        inputs = [{"id": number, "loops": loops} for number in range(count)]
        (folder / "in").write_text("".join(json.dumps(each) + "\n" for each in inputs))
        began = time.monotonic()
        subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)
        took = time.monotonic() - began
        answers = [json.loads(line) for line in (folder / "out").read_text().splitlines()]
        total = burn(inputs[0])["total"]
        right = inputs if work == PROGRAM else [{"id": number, "total": total} for number in range(count)]
        assert answers == right
    return took


def pool(compute: Callable[[str], str]) -> None:
    """Compute the file by a process pool."""
    with (
        multiprocessing.get_context("spawn").Pool(PROCESSES) as workers,
        Path("in").open() as source,
        Path("out").open("w") as target,
    ):
        target.writelines(workers.imap(compute, source, CHUNK))
        target.flush()
        os.fsync(target.fileno())


def _line(line: str) -> str:
    return json.dumps(burn(json.loads(line))) + "\n"


def _copy(line: str) -> str:
    return subprocess.run(["cat"], input=line, stdout=subprocess.PIPE, text=True, check=True).stdout


def main() -> None:
    """Compare three times, each kind of work."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    if not shutil.which("parallel"):
        print("GNU parallel is not installed (scripts/setup --benchmarks)", flush=True)
    with TemporaryDirectory(prefix="mqw-bench-") as folder:
        code = copies.present(Path(folder) / "now")
        for work, lines in ((FUNCTION, count), (PROGRAM, max(2 * FEW, count // 10))):
            measured = rates(code, lines, work)
            for _ in range(3):
                found = {name: measure() for name, measure in measured.items()}
                told = ", ".join(f"{name} {rate:,.0f} lines/s" for name, rate in found.items())
                print(f"{work}: {told}; mqworker/Pool {found['mqworker'] / found['Pool.imap']:.3f}", flush=True)


if __name__ == "__main__":
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    if asked in ("pool", "pool-of-programs"):
        pool(_line if asked == "pool" else _copy)
    else:
        main()
