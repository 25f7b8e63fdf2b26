"""Whether each line of a file is in the output once, in order, whatever is killed: `scripts/chaos --map --help`.

`mqworker map` computes lines of which some fail once, some for good, some kill their Consumer, some give nothing and
some two results. The run is killed (or stopped by a signal) at random moments and gone on with by `--resume`; meanwhile
Consumers are killed too. Then output and dead letters must be exactly those of a run without any fault.

Builds that are broken on purpose must show: one that stores how far it is before what it has written, and one that does
not cut its files when it goes on.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.chaos.controls import BROKEN
from tests.support.cli import MQWORKER, environment

JOBS = """\
import os, signal, time
from mqworker import Reject

def handle(body, message):
    kind = body % 20_000
    if kind == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind in (11, 12, 13):
        raise Reject("for good")
    if body % 500 == 9 and message.attempt == 1:
        raise ValueError("once")
    if body % 100 != 1:
        time.sleep(PAUSE)
        yield {"n": body}
    if body % 100 == 2:
        yield {"again": body}
"""
ROOT = Path(__file__).parents[2]
ENDS = (signal.SIGKILL,) * 8 + (signal.SIGTERM, signal.SIGINT)
CONTROLS = ("state-before-lines", "files-not-cut")
CONTROL_LINES, CONTROL_KILLS = 10_000, 7
CONTROL_PLAYS = 5  # it shows only where a kill comes between two writes


def results(n: int) -> list[dict[str, int]]:
    """Return what a line has to come to."""
    if n % 20_000 in (7, 11, 12, 13) or n % 100 == 1:
        return []
    return [{"n": n}, {"again": n}] if n % 100 == 2 else [{"n": n}]


def dead(n: int) -> str:
    """Return the reason of its dead letter; "": it has none."""
    kind = n % 20_000
    return "crash" if kind == 7 else "reject" if kind in (11, 12, 13) else ""


class Campaign:
    """One file, computed under fire."""

    def __init__(self, folder: Path, lines: int, seed: int, broken: str = "", pause: float = 0.0) -> None:
        self.folder = folder
        self.lines = lines
        self.done: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._ends = (signal.SIGKILL,) if broken else ENDS
        path = f"{BROKEN}:{ROOT}" if broken else str(ROOT)
        self._env = environment({"PYTHONPATH": path, "CHAOS_BROKEN": broken})
        (folder / "jobs.py").write_text(JOBS.replace("PAUSE", str(pause)))
        with (folder / "in").open("w") as file:
            file.writelines(f"{n}\n" for n in range(lines))

    @property
    def stored(self) -> int:
        """How many lines the unfinished run has stored."""
        try:
            return int(json.loads((self.folder / "out.map" / "state").read_text())["place"][0])
        except FileNotFoundError:
            return 0

    def play(self, kills: int) -> int:
        """Kill the run so often, at random places; returns the exit code of the run that ended by itself."""
        for place in sorted(self._chance.randrange(self.lines * 9 // 10) for _ in range(kills)):
            code = self._run(place)
            if code is not None:
                return code
        return self._run(self.lines + 1) or 0

    def _run(self, place: int) -> int | None:
        """Run until it has stored so much, and a while longer; returns its exit code if it ended by itself."""
        command = [*MQWORKER, "map", "jobs:handle", "-i", "in", "-o", "out", "-n", "4", "--resume"]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=self.folder, env=self._env, stderr=log, stdin=subprocess.DEVNULL)
        try:
            due = time.monotonic() + 2.0
            while self.stored <= place:
                if process.poll() is not None:
                    return process.returncode
                if time.monotonic() > due:
                    due += self._chance.uniform(0.5, 4.0)
                    self._kill_consumer(process.pid)
                time.sleep(0.01)
            time.sleep(self._chance.random() * 1.2)
            if process.poll() is not None:
                return process.returncode
            number = self._chance.choice(self._ends)
            process.send_signal(number)
            process.wait(10)
            self.done[number.name] += 1
            say(f"{number.name} at {self.stored:,} of {self.lines:,} lines: {self.done.total()} in all")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(10)
        return None

    def _kill_consumer(self, parent: int) -> None:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            consumers = [pid for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "mqw-consumer"]
            if len(consumers) > 1:
                os.kill(int(self._chance.choice(consumers)), signal.SIGKILL)
                self.done["Consumer"] += 1

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with output and dead letters."""
        expected = (each for n in range(self.lines) for each in results(n))
        with (self.folder / "out").open() as file:
            for number, line in enumerate(file, 1):
                got, want = json.loads(line), next(expected, None)
                if got != want:
                    yield f"line {number} of the output is {got}, not {want}"
                    return
        if (missing := next(expected, None)) is not None:
            yield f"the output ends before {missing}"
        letters = [json.loads(line) for line in (self.folder / "out.dead").read_text().splitlines()]
        found = [(letter["line"] - 1, letter["reason"]) for letter in letters]
        if found != [(n, dead(n)) for n in range(self.lines) if dead(n)]:
            yield f"the dead letters are {found[:10]}..."
        if left := sorted({path.name for path in self.folder.iterdir()} - {"in", "out", "out.dead", "jobs.py", "log"}):
            yield f"left behind: {left}"


def judge(lines: int, kills: int, seed: int, broken: str = "", pause: float = 0.0) -> list[str]:
    """Play once; returns what is wrong with what was written. A run that has not written it raises AssertionError."""
    with TemporaryDirectory(prefix="mqw-lines-") as folder:
        campaign = Campaign(Path(folder), lines, seed, broken, pause)
        began = time.monotonic()
        code = campaign.play(kills)
        seconds = time.monotonic() - began
        assert code == 65, f"exit code {code}: {(campaign.folder / 'log').read_text()[-2000:]}"
        faults = list(campaign.faults())
        told = "; ".join(faults) or "each line once, in order"
        say(f"{lines:,} lines in {seconds:.0f} s, {dict(campaign.done)}: {told}")
    return faults


def main() -> int:
    """See the module head; returns 0 if all is as it must be."""
    parser = argparse.ArgumentParser(
        "scripts/chaos --map", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=20, help="of the run; Consumers are killed every few seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--controls", choices=("yes", "no"), default="yes", help="also the builds that are broken")
    asked = parser.parse_args()
    say(f"{asked.lines:,} lines, {asked.kills} kills, seed {asked.seed}")
    good = not judge(asked.lines, asked.kills, asked.seed)
    for broken in CONTROLS if asked.controls == "yes" else ():
        say(f"control: {broken}")
        seeds = range(asked.seed, asked.seed + CONTROL_PLAYS)
        seen = any(judge(CONTROL_LINES, CONTROL_KILLS, seed, broken, pause=0.0005) for seed in seeds)
        if not seen:
            say(f"NOT SEEN: {broken}")
        good = good and seen
    return int(not good)


def say(what: str) -> None:
    """Print it at once."""
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
