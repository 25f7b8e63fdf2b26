"""The benchmark: its arithmetic, the code that it measures, and what it leaves behind."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.benchmarks import cases, lines, order, pictures, saved
from tests.benchmarks.behind import waited
from tests.benchmarks.code import ROOT, NoSuchCommitError, checkout, commit
from tests.benchmarks.figures import Case, read, table
from tests.benchmarks.rounds import TimeLeft, Trial, mirrored, run
from tests.support import rabbitmq
from tests.support.waiting import wait_for


def case(rounds: list[tuple[float, float]], *, cost: bool = False) -> Case:
    """A case with these rounds of (now, before)."""
    found = Case("a", "what", "unit", "now", {"before": 0.97}, cost=cost)
    found.rounds = [{"now": now, "before": before} for now, before in rounds]
    return found


def test_ratios_are_taken_within_a_round():
    """A machine that is slow in one round and fast in another changes no ratio."""
    assert case([(50, 100), (1000, 1000), (30, 20)]).ratios("before").document() == {
        "min": 0.5,
        "median": 1.0,
        "max": 1.5,
        "all": [0.5, 1.0, 1.5],
    }


@pytest.mark.parametrize("cost", [False, True])
def test_above_one_is_better(cost):
    """More messages a second and fewer microseconds a message both give a ratio above 1, and the goal is a median."""
    better, worse = (10, 11) if cost else (11, 10)
    assert case([(better, worse)] * 2 + [(worse, better)], cost=cost).met()
    assert not case([(better, worse)] + [(worse, better)] * 2, cost=cost).met()


@pytest.mark.parametrize("number", [0, 1])
def test_a_steady_drift_harms_nobody(number):
    """Each contestant's places in a round have the same sum."""
    places: dict[str, int] = {}
    for place, name in enumerate(mirrored(["now", "before", "relay"], number)):
        places[name] = places.get(name, 0) + place
    assert len(set(places.values())) == 1


class Silent:
    """Nobody is told."""

    def line(self, words):
        pass

    def now(self, words):
        pass


def test_a_figure_that_a_contestant_cannot_tell_is_left_out():
    """It has no ratio and no goal that is met or missed, and the table says that it was not measured."""
    rate = Case("a", "what", "unit", "now", {"other": 2.0})
    waiting = Case("a", "waiting", "messages", "now", {"other": 9.0}, part="waiting", cost=True, limit=1.0)
    trial = Trial("what", [rate, waiting], {"now": lambda: (4.0, 1.0), "other": lambda: (1.0, None)}, 1.0, 2)
    run(trial, TimeLeft([trial]), Silent())
    assert rate.ratios("other").all == [4.0, 4.0]
    assert waiting.rounds == [{"now": 1.0}, {"now": 1.0}]
    assert rate.met()
    assert waiting.met()
    assert [line.split() for line in table([waiting]).splitlines()[1:]] == [
        ["now", "1.00", "goal:", "at", "most", "1.00", "met"],
        ["other", "not", "measured"],
    ]


def test_the_time_left_follows_what_runs_have_taken():
    """Half of what was planned has taken 30 s, so as much is left."""
    now = [0.0]
    trial = Trial("what", [], {"now": lambda: ()}, 5.0, 1)
    left = TimeLeft([trial], lambda: now[0])
    assert left.words() == "10 s left"
    now[0] = 30.0
    left.ran(trial)
    assert left.words() == "30 s left"


def document(figure: float, **machine) -> dict:
    """A run with one case, on this machine unless told otherwise."""
    made = saved.document([case([(figure, 100.0)] * 3)], {"RabbitMQ": "3"}, {})
    return made | {"machine": made["machine"] | machine}


def test_a_run_is_compared_with_one_of_before():
    """By the subject's own median: what the others have done does not count, and 3 % are no difference."""
    assert [line.slower for line in saved.compared(document(97.5), document(100.0))] == [False]
    [line] = saved.compared(document(96.0), document(100.0))
    assert line.slower
    assert line.ratio == pytest.approx(0.96)


def test_a_run_of_another_machine_is_refused():
    """Its figures say nothing about this one."""
    with pytest.raises(saved.MachineDiffersError, match="of another machine \\(cores 999, here"):
        saved.compared(document(1.0), document(1.0, cores=999))


def test_other_sizes_are_said():
    """A run of 25,000 messages beside one of 100,000 is compared, and the difference is named."""
    assert (
        saved.other_sizes({"sizes": {"small": 25, "rounds": 2}}, {"sizes": {"small": 100, "rounds": 2}})
        == "small 100 -> 25"
    )
    assert saved.other_sizes({"sizes": {"small": 25}}, {"sizes": {"small": 25}}) == ""


def test_a_saved_run_has_all_of_it():
    """A case that is read again is the same, and each picture of it is well-formed XML that names the contestants."""
    made = document(100.0)
    [again] = map(read, made["cases"])
    assert again.document() == made["cases"][0]
    [(name, text)] = pictures.pictures(made)
    assert name == "benchmark-rate.svg"
    words = " ".join(ET.fromstring(text).itertext())
    assert "now" in words
    assert "before" in words


def ran(number: int, pid: int, began: float, seconds: float) -> dict:
    """What the handler of one message notes."""
    return {"id": number, "pid": pid, "seconds": seconds, "began": began, "ended": began + seconds}


@pytest.mark.parametrize(
    ("results", "count"),
    [
        ([ran(0, 1, 0.0, 0.5), ran(1, 2, 0.0, 0.2), ran(2, 1, 0.5, 0.001), ran(3, 2, 0.3, 0.001)], 1),  # 3 overtook 2
        ([ran(0, 1, 0.0, 0.5), ran(1, 2, 0.0, 0.2), ran(2, 1, 0.5, 0.001)], 1),  # the other one got nothing more
        ([ran(0, 1, 0.0, 0.5), ran(1, 2, 0.0, 0.5), ran(2, 1, 0.5, 0.001), ran(3, 2, 0.5, 0.001)], 0),  # nobody idle
        ([ran(0, 1, 0.0, 0.5), ran(1, 2, 0.0, 0.2), ran(3, 1, 0.5, 0.001), ran(2, 2, 0.3, 0.3)], 0),  # in order
    ],
)
def test_who_waited_behind_a_long_message(results, count):
    """A short message that began after a long one, while another Consumer was idle and was then given a later one."""
    assert waited(results) == count


def test_every_case_has_its_letter_once():
    """And is explained in --help under it."""
    assert len(set(cases.LETTERS)) == len(cases.LETTERS)
    assert all(f"({letter}) " in cases.words() for letter in cases.LETTERS)
    assert set(cases.LETTERS_AGAINST + cases.LETTERS_QUICK) <= set(cases.LETTERS)


@pytest.mark.parametrize("kind", order.KINDS)
def test_the_messages_of_an_order_are_as_told(kind):
    """Their service times have the mean that was asked for, one key has its share, and each run has the same ones."""
    times, names = order.service_times(kind, 20_000, 0.005), order.keys(20_000)
    assert sum(times) == pytest.approx(20_000 * 0.005, rel=0.05)
    assert names.count("hot") == pytest.approx(0.15 * 20_000, rel=0.05)
    assert len(set(names)) == order.KEYS
    assert (times, names) == (order.service_times(kind, 20_000, 0.005), order.keys(20_000))


def test_a_commit_is_measured_as_it_was_committed(tmp_path):
    """The copy of a commit has the commit's text, whatever the working tree has; what git does not know is an error."""
    text = subprocess.run(
        ["git", "-C", ROOT, "show", "HEAD:mqworker/__init__.py"], capture_output=True, check=True
    ).stdout
    assert (checkout(commit("HEAD"), tmp_path) / "mqworker/__init__.py").read_bytes() == text
    with pytest.raises(NoSuchCommitError, match="no commit 'no-such-branch'"):
        commit("no-such-branch")


def below(folder: Path) -> list[str]:
    """The living processes whose environment names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append((path.parent / "comm").read_text().strip())
        except OSError:
            continue
    return found


@pytest.mark.system
@pytest.mark.rabbitmq
@pytest.mark.skipif(not rabbitmq.available(), reason="rabbitmq-server is not installed")
def test_an_interrupted_comparison_leaves_nothing(short_path):
    """Ctrl-C after a round that measured both: services, node and folders are gone, and the exit code says why."""
    options = ["--against", "HEAD", "--rounds", "9", "--cases", "ab", "--messages", "100"]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks", *options],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(short_path)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as bench:
        assert bench.stderr is not None
        lines = [bench.stderr.readline(), bench.stderr.readline()]
        assert lines[0].startswith("(a b) 200-byte JSON"), "".join(lines) + bench.stderr.read()
        assert lines[1].startswith("round 1 of 9: (a) now "), "".join(lines) + bench.stderr.read()
        wait_for(lambda: "mqw-consumer" in below(short_path), 30, "the next service")
        bench.send_signal(signal.SIGINT)
        bench.stderr.read()
        assert bench.wait(30) == 128 + signal.SIGINT
    assert not below(short_path)
    assert not list(short_path.iterdir())


@pytest.mark.parametrize("work", [lines.FUNCTION, lines.PROGRAM])
def test_everyone_computes_the_lines_of_a_file(work):
    """Each contestant, GNU parallel too where it is installed, has each result right and in its place."""
    contestants = lines.programs(ROOT, work)
    assert ("parallel" in contestants) == (shutil.which("parallel") is not None)
    for command in contestants.values():
        assert lines.seconds(command, 40, 100, work) > 0  # AssertionError if it has not
