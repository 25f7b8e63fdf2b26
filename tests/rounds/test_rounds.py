"""`scripts/rounds`: what it calls growth, a short run of it, and a leak that it has to see."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.rounds.census import grown, reference, table

ROOT = Path(__file__).parents[2]
BEFORE = {"descriptors: mqw-producer": 40, "KiB of memory: mqw-producer": 30_000, "zombies": 0}


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({}, []),
        ({"descriptors: mqw-producer": -3, "KiB of memory: mqw-producer": 4096}, []),
        ({"descriptors: mqw-producer": 1}, ["descriptors: mqw-producer: 40 before, 41 after"]),
        ({"KiB of memory: mqw-producer": 4097}, ["KiB of memory: mqw-producer: 30,000 before, 34,097 after"]),
        ({"zombies": 1, "processes: sleep": 2}, ["processes: sleep: 0 before, 2 after", "zombies: 0 before, 1 after"]),
    ],
)
def test_what_has_grown_is_named_with_both_figures(more, named):
    """Any more of what is counted is growth, of memory more than 4 MiB; less is none."""
    before = Counter(BEFORE)
    after = Counter({what: before[what] + more.get(what, 0) for what in {*before, *more}})
    assert grown(before, after) == named
    for row in (f"| {what} | {before[what]:,} | {after[what]:,} |" for what in after):
        assert row in table({"before": before, "after": after})


def test_memory_counts_from_the_middle_and_everything_else_from_the_start():
    """A cache that fills is no leak; a descriptor is one whenever it is opened."""
    middle = Counter(BEFORE) + Counter({"descriptors: mqw-producer": 1, "KiB of memory: mqw-producer": 9_000})
    assert grown(reference(Counter(BEFORE), middle), middle) == ["descriptors: mqw-producer: 40 before, 41 after"]
    after = middle + Counter({"KiB of memory: mqw-producer": 4_097})
    assert len(grown(reference(Counter(BEFORE), middle), after)) == 2


def play(*flags: str) -> subprocess.CompletedProcess[str]:
    """Run some rounds, as `scripts/rounds` does."""
    command = [sys.executable, "-m", "tests.rounds", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    print(done.stdout[-20_000:], done.stderr[-20_000:])
    return done


@pytest.mark.system
@pytest.mark.long
def test_rounds_of_changing_work_leave_nothing_behind():
    """Trees that are built, worked with and torn down leave no process, descriptor, file or memory behind."""
    assert play("--rounds", "6", "--warm-up", "4").returncode == 0


@pytest.mark.system
@pytest.mark.release
def test_a_leak_is_seen():
    """A Producer that leaves one descriptor open for each Consumer is named."""
    assert (
        "grown: descriptors: mqw-producer" in play("--rounds", "2", "--warm-up", "1", "--rest", "2", "--broken").stdout
    )
