"""`mqworker map` as a user types it: real processes, real files, real signals."""

import contextlib
import gzip
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mqworker.exits import Exit
from tests.support.cli import MQWORKER, environment, mqworker
from tests.support.environment import plain
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]

JOBS = """\
import os, signal, sys, time
from pathlib import Path
from mqworker import Reject

HERE = Path(__file__).parent

def double(body):
    return body * 2

def kinds(body, params):
    if body == "none":
        return None
    if body == "reject":
        raise Reject("not this one")
    if body == "fail":
        raise ValueError("never")
    if body == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    return {"got": body, "params": dict(params)}

def several(body):
    for number in range(body):
        yield [body, number]

def slow(body):
    time.sleep(body)
    return body

def once(body, message):
    if message.attempt == 1 and body % 10 == 3:
        raise OSError("at first")
    return [body, message.attempt, message.message_id]

def tree(body):
    if body == "kill":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(30)
    return body

def shout(body):
    return body.upper()

def noted(body):
    with open(HERE / "noted", "a") as file:
        file.write(f"{body}\\n")
    time.sleep(0.001)
    return body

def talks(body, log):
    print(f"printed {body}")
    log.info("logged %d", body)
    return body

class Unfit:
    def setup(self):
        raise RuntimeError("no device")
    def handle(self, body):
        return body

class Shared:
    shared = True
    def handle(self, body):
        return body
"""
CONFIG = """\
[stages.kinds]
input = "kinds"
jobs = ["jobs:kinds"]
output = "out"
consumers = 1
ordered_by = "input"
retry = { max_attempts = 2, base = 0.1, max = 1 }
params = { a = 1, b = 2 }
[stages.hangs]
input = "hangs"
jobs = ["jobs:slow"]
time_limit = { hard = 1.0 }
retry = { max_attempts = 1 }
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with jobs."""
    (tmp_path / "jobs.py").write_text(JOBS)
    return tmp_path


def write(path: Path, values) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def read(path: Path) -> list:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@contextmanager
def running(folder: Path, *arguments: str, stdin=subprocess.DEVNULL) -> Iterator[subprocess.Popen]:
    """Start a run, which is killed at the end of the block."""
    process = subprocess.Popen(
        [*MQWORKER, "map", *arguments],
        cwd=folder,
        env=environment(),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)


def stored(folder: Path, name="out") -> int:
    """How many lines an unfinished run has stored; -1: it has no state."""
    try:
        return json.loads((folder / f"{name}.map" / "state").read_text())["place"][0]
    except FileNotFoundError:
        return -1


def left(folder: Path) -> set[str]:
    """What a run has left behind besides its code."""
    return {path.name for path in folder.iterdir()} - {"jobs.py", "mqworker.toml"}


def test_results_stand_in_the_order_of_the_lines(folder):
    """With two Consumers and times at random; blank lines are passed over, and the last line needs no newline."""
    values = [random.random() * 0.02 for _ in range(300)]
    (folder / "in").write_text("\n\n".join(map(json.dumps, values)))
    done = mqworker("map", "jobs:slow", "-i", "in", "-o", "out", "-n", "2", cwd=folder)
    assert done.returncode == Exit.OK, done.stderr
    assert done.stdout == ""
    assert done.stderr == "599 lines, 300 results\n"
    assert read(folder / "out") == values
    assert left(folder) == {"in", "out"}


def test_several_results_of_a_line_stand_together(folder):
    """As many lines as were yielded, also none."""
    write(folder / "in", [3, 0, 1, 2])
    done = mqworker("map", "jobs:several", "-i", "in", "-o", "out", cwd=folder)
    assert done.returncode == Exit.OK, done.stderr
    assert read(folder / "out") == [[3, 0], [3, 1], [3, 2], [1, 0], [2, 0], [2, 1]]


def test_retried_lines_keep_their_places_and_hold_nobody_up(folder):
    """One line of ten fails at first; its second attempt comes a second later, with the same id, in its place."""
    write(folder / "in", range(300))
    began = time.monotonic()
    done = mqworker("map", "jobs:once", "-i", "in", "-o", "out", cwd=folder)
    assert done.returncode == Exit.OK, done.stderr
    assert read(folder / "out") == [[n, 2 if n % 10 == 3 else 1, str(n + 1)] for n in range(300)]
    assert time.monotonic() - began < 25  # one after the other they would take 30 s


def test_a_stage_lends_its_jobs_params_limits_and_retries(folder):
    """What fails for good is a dead letter with the reason, and code 65 says that there are some."""
    (folder / "mqworker.toml").write_text(CONFIG)
    (folder / "in").write_text('"a"\n"none"\n"reject"\nnot json\n"fail"\n"b"\n')
    done = mqworker("map", "kinds", "-i", "in", "-o", "out", "--params", '{"b": 3}', cwd=folder)
    assert done.returncode == Exit.DEAD, done.stderr
    assert read(folder / "out") == [{"got": letter, "params": {"a": 1, "b": 3}} for letter in "ab"]
    dead = read(folder / "out.dead")
    assert [(each["line"], each["reason"], each["attempt"]) for each in dead] == [
        (3, "reject", 1),
        (4, "undecodable", 1),
        (5, "error", 2),
    ]
    assert "not this one" in dead[0]["error"]
    assert dead[1] | {"error": ""} == {
        "line": 4,
        "offset": 20,
        "length": 8,
        "reason": "undecodable",
        "error": "",
        "attempt": 1,
        "input": "not json",
    }
    assert "in kinds" in dead[2]["traceback"]
    assert "line 5: error: ValueError: never" in done.stderr
    assert "6 lines, 2 results, 3 dead letters" in done.stderr


def test_a_line_that_hangs_or_kills_costs_itself_alone(folder):
    """The hard limit and a crash make one dead letter each, with the evidence; all other lines have results."""
    (folder / "mqworker.toml").write_text(CONFIG)
    write(folder / "in", [0, 0, 60, 0, 0])
    done = mqworker("map", "hangs", "-i", "in", "-o", "out", cwd=folder)
    assert done.returncode == Exit.DEAD, done.stderr
    assert read(folder / "out") == [0, 0, 0, 0]
    assert [(each["line"], each["reason"]) for each in read(folder / "out.dead")] == [(3, "timeout")]
    write(folder / "in", [*"abcd", "crash", *"efgh"])
    done = mqworker("map", "jobs:kinds", "-i", "in", "-o", "other", cwd=folder)
    assert done.returncode == Exit.DEAD, done.stderr
    assert [each["got"] for each in read(folder / "other")] == [*"abcdefgh"]
    (letter,) = read(folder / "other.dead")
    assert (letter["line"], letter["reason"]) == (5, "crash")
    assert "SIGSEGV" in letter["exit"]


def test_compressed_files_and_text(folder):
    """.gz in and out; with --text, lines are text, and a result with a line break is a dead letter."""
    with gzip.open(folder / "in.gz", "wt") as file:
        file.write("héllo\r\nwörld\n")
    done = mqworker("map", "jobs:shout", "--text", "-i", "in.gz", "-o", "out.gz", cwd=folder)
    assert done.returncode == Exit.OK, done.stderr
    assert gzip.decompress((folder / "out.gz").read_bytes()).decode() == "HÉLLO\nWÖRLD\n"
    (folder / "more.py").write_text("def twice(body):\n    return f'{body}\\n{body}' if body == 'b' else body\n")
    (folder / "in").write_text("a\nb\nc\n")
    done = mqworker("map", "more:twice", "--text", "-i", "in", "-o", "out", cwd=folder)
    assert done.returncode == Exit.DEAD
    assert (folder / "out").read_text() == "a\nc\n"
    (letter,) = read(folder / "out.dead")
    assert (letter["line"], letter["reason"]) == (2, "unencodable")


def test_from_stdin_to_stdout(folder):
    """Words go to stderr only; dead letters need a name; what the jobs print is on stderr."""
    arguments = ("map", "jobs:talks", "-i", "-", "-o", "-")
    refused = mqworker(*arguments, cwd=folder, stdin="1\n")
    assert refused.returncode == Exit.USAGE
    assert "--dead" in refused.stderr
    done = mqworker(*arguments, "--dead", "dead", cwd=folder, stdin="1\n2\nx\n3")
    assert done.returncode == Exit.DEAD, done.stderr
    assert done.stdout == "1\n2\n3\n"
    assert {"printed 1", "logged 3"} <= set(done.stderr.splitlines())
    assert [each["line"] for each in read(folder / "dead")] == [3]
    resumed = mqworker(*arguments, "--dead", "dead", "--resume", cwd=folder, stdin="1\n")
    assert resumed.returncode == Exit.USAGE
    assert "cannot be resumed" in resumed.stderr


def test_a_reader_that_leaves_ends_it_quietly(folder):
    """`| head` gets its lines, and the run ends without a word about the broken pipe."""
    write(folder / "in", range(200_000))
    arguments = ("jobs:double", "-i", "in", "-o", "-", "--dead", "dead")
    with running(folder, *arguments) as process:
        assert [process.stdout.readline() for _ in range(3)] == ["0\n", "2\n", "4\n"]
        process.stdout.close()
        assert process.wait(60) == 128 + signal.SIGPIPE
        told = process.stderr.read()
        assert "Traceback" not in told
        assert "mqworker:" not in told


@pytest.mark.long
@pytest.mark.parametrize("kills", [3, pytest.param(8, marks=pytest.mark.release)])
def test_killed_again_and_again_each_line_is_there_once_in_order(folder, kills):
    """SIGKILL at random places, `--resume` after each: the output is complete, and what was stored is not redone."""
    chance, total = random.Random(7), 1_500 * kills
    write(folder / "in", range(total))
    arguments = ("jobs:noted", "-i", "in", "-o", "out", "--resume")
    for place in sorted(chance.randrange(total * 7 // 10) for _ in range(kills)):
        with running(folder, *arguments) as process:
            wait_for(lambda: stored(folder) >= place or process.poll() is not None, 120, "the place")  # noqa: B023 - at once
            time.sleep(chance.random() / 2)
            assert process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait(10)
    assert (folder / "out.map").exists()
    done = mqworker("map", *arguments, cwd=folder)
    assert done.returncode == Exit.OK, done.stderr
    assert read(folder / "out") == list(range(total))
    assert left(folder) == {"in", "out", "noted"}
    computed = len((folder / "noted").read_text().splitlines())
    assert computed < total + kills * 3_500  # what was not stored yet: about two seconds of work each time


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, Exit.GIVEN_BACK),
        pytest.param(signal.SIGHUP, Exit.GIVEN_BACK, marks=pytest.mark.release),
    ],
)
def test_a_signal_ends_it_within_five_seconds_and_it_goes_on(folder, number, code):
    """Also while lines take longer; it prints the command that goes on, which finishes the work."""
    write(folder / "in", [0.01] * 200 + [60] + [0.01] * 200)
    with running(folder, "jobs:slow", "-i", "in", "-o", "out", "-n", "2") as process:
        wait_for(lambda: stored(folder) == 200, 60, "the lines before the long one")
        began = time.monotonic()
        process.send_signal(number)
        _, told = process.communicate(timeout=30)
        assert process.returncode == code, told
        assert time.monotonic() - began < 5.5
    assert "unfinished: 200 lines, 200 results" in told
    assert told.splitlines()[-1].endswith("map jobs:slow -i in -o out -n 2 --resume")
    assert (folder / "out.part").exists()
    refused = mqworker("map", "jobs:slow", "-i", "in", "-o", "out", cwd=folder)
    assert refused.returncode == Exit.USAGE
    assert "--resume" in refused.stderr
    (folder / "jobs.py").write_text(JOBS.replace("time.sleep(body)", "pass"))  # edited code is taken
    done = mqworker("map", "jobs:slow", "-i", "in", "-o", "out", "--resume", cwd=folder)
    assert done.returncode == Exit.OK, done.stderr
    assert read(folder / "out") == [0.01] * 200 + [60] + [0.01] * 200


def test_another_input_is_not_gone_on_with_and_a_longer_one_is(folder):
    """A changed beginning is refused, with nothing lost; lines that were appended since are computed."""
    write(folder / "in", [0.001] * 500 + [30])
    with running(folder, "jobs:slow", "-i", "in", "-o", "out") as process:
        wait_for(lambda: stored(folder) == 500, 60, "the short lines")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    write(folder / "in", [0.002] * 500 + [0])
    refused = mqworker("map", "jobs:slow", "-i", "in", "-o", "out", "--resume", cwd=folder)
    assert refused.returncode == Exit.INTERNAL
    assert "not the input of that run" in refused.stderr
    assert "or to start over, remove out.map and out.part" in refused.stderr
    assert "to go on" not in refused.stderr, "with this input it does not"
    assert stored(folder) == 500
    write(folder / "in", [0.001] * 500 + [0, 0, 0])
    done = mqworker("map", "jobs:slow", "-i", "in", "-o", "out", "--resume", cwd=folder)
    assert done.returncode == Exit.OK, done.stderr
    assert read(folder / "out") == [0.001] * 500 + [0, 0, 0]


def test_a_line_that_kills_the_whole_tree_ends_as_a_dead_letter(folder):
    """After four deaths of the tree, the line is convicted, and the others have results."""
    write(folder / "in", ["a", "kill", "b"])
    arguments = ("map", "jobs:tree", "-i", "in", "-o", "out", "-n", "2", "--resume")
    deaths = 0
    while (done := mqworker(*arguments, cwd=folder)).returncode == -signal.SIGKILL:
        deaths += 1
        assert deaths < 8
    assert done.returncode == Exit.DEAD, done.stderr
    assert deaths == 4
    assert read(folder / "out") == ["a", "b"]
    (letter,) = read(folder / "out.dead")
    assert (letter["line"], letter["reason"]) == (2, "crash")
    assert "TreeDied" in letter["error"]


def test_an_endless_line_needs_no_memory(folder):
    """One of 1 GB is a dead letter by offset and length; no process comes near that size."""
    size = 1 << 30
    with (folder / "in").open("wb") as file:
        file.write(b"1\n")
        file.seek(2 + size)
        file.write(b"\n2\n")
    # A process starts with the peak of the one that forked it, and a test before may have needed a lot in this one.
    measured = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:])\n"
    measured += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    command = [sys.executable, "-c", measured, *MQWORKER, "map", "jobs:double", "-i", "in", "-o", "out"]
    done = subprocess.run(command, cwd=folder, env=environment(), check=False, stdout=subprocess.PIPE, text=True)
    assert done.returncode == Exit.DEAD
    peak = int(done.stdout.split()[-1]) * 1024
    assert peak < size / 4
    assert read(folder / "out") == [2, 4]
    (letter,) = read(folder / "out.dead")
    assert (letter["line"], letter["offset"], letter["length"], letter["reason"]) == (2, 2, size, "oversized")
    assert "input" not in letter


def test_a_cut_gzip_file_ends_with_its_whole_lines(folder):
    """They are computed and stored, the sentence says where it is cut, and the whole file is gone on with."""
    whole = gzip.compress(b"".join(b"%d\n" % (n * 7919) for n in range(5000)))
    (folder / "in.gz").write_bytes(whole[:-200])
    done = mqworker("map", "jobs:double", "-i", "in.gz", "-o", "out", cwd=folder)
    assert done.returncode == Exit.INTERNAL
    assert "cut off after byte" in done.stderr
    assert 3000 < stored(folder) < 5000
    (folder / "in.gz").write_bytes(whole)
    done = mqworker("map", "jobs:double", "-i", "in.gz", "-o", "out", "--resume", cwd=folder)
    assert done.returncode == Exit.OK, done.stderr
    assert read(folder / "out") == [n * 7919 * 2 for n in range(5000)]


def test_a_full_disk_ends_it_and_it_goes_on(folder):
    """The state stays as it was; once there is space, --resume finishes."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    disk = folder / "disk"
    disk.mkdir()
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk]
    if not mount or not umount or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    try:
        texts = [f"{number}" + "x" * 1000 for number in range(6000)]
        write(folder / "in", texts)
        done = mqworker("map", "jobs:shout", "-i", "in", "-o", "disk/out", cwd=folder)
        assert done.returncode == Exit.INTERNAL
        assert "No space left on device" in done.stderr
        assert 0 <= stored(disk) < 6000
        subprocess.run([mount, "-o", "remount,size=20m", disk], check=True)
        done = mqworker("map", "jobs:shout", "-i", "in", "-o", "disk/out", "--resume", cwd=folder)
        assert done.returncode == Exit.OK, done.stderr
        assert read(disk / "out") == [text.upper() for text in texts]
    finally:
        subprocess.run([umount, "--lazy", disk], check=True)


@pytest.mark.parametrize(
    ("job", "code", "told"),
    [
        ("jobs:missing", Exit.CONFIG, "missing"),
        ("nowhere:job", Exit.CONFIG, "nowhere"),
        ("jobs:Unfit", Exit.RESTARTS_EXHAUSTED, "no device"),
        ("jobs:Shared", Exit.CONFIG, "shared objects keep their state in a service"),
        ("jobs;double", Exit.USAGE, "there is no stage"),
        ("kinds2", Exit.USAGE, "there is no stage"),
    ],
)
def test_what_cannot_run_is_said_and_leaves_nothing(folder, job, code, told):
    """A sentence, an exit code, and no unfinished run, unless Consumers were started."""
    (folder / "mqworker.toml").write_text(CONFIG)
    write(folder / "in", [1, 2])
    done = mqworker("map", job, "-i", "in", "-o", "out", cwd=folder)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr or code == Exit.RESTARTS_EXHAUSTED
    assert left(folder) == ({"in", "out.dead", "out.map", "out.part"} if job == "jobs:Unfit" else {"in"})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("-i", "in", "-o", "in"), "named twice"),
        (("-i", "in", "-o", "out", "--dead", "out"), "for the results and for the dead letters"),
        (("-i", "in", "-o", "out", "--dead", "in"), "named twice"),
        (("-i", "missing", "-o", "out"), "No such file"),
        (("-i", "in", "-o", "out", "--params", "[1]"), "must be an object"),
        (("-i", "in", "-o", "out", "--params", "n=3"), "it must be an object, such as '{"),
        (("-i", "in", "-o", "no/out"), "there is no folder no; make it first"),
        (("-i", "in", "-o", "out", "-c", "mqworker.toml"), "--config"),
    ],
)
def test_what_is_typed_wrongly_is_refused(folder, arguments, told):
    """No file is read and written, or written twice; nothing is left."""
    write(folder / "in", [1])
    done = mqworker("map", "jobs:double", *arguments, cwd=folder)
    assert done.returncode in (Exit.USAGE, Exit.INTERNAL)
    assert told in done.stderr
    assert left(folder) == {"in"}


def test_nothing_in_nothing_out(folder):
    """An empty input gives an empty output."""
    (folder / "in").touch()
    done = mqworker("map", "jobs:double", "-i", "in", "-o", "out", cwd=folder)
    assert done.returncode == Exit.OK, done.stderr
    assert (folder / "out").read_bytes() == b""
    assert left(folder) == {"in", "out"}


def test_on_a_terminal_there_is_a_bar_and_the_line_that_holds_up_the_others(folder):
    """Percent, rate, and after five seconds the line for which the results of others wait."""
    write(folder / "in", [6.5, 0, 0, 0, 0])
    terminal, end = pty.openpty()
    try:
        process = subprocess.Popen(
            [*MQWORKER, "map", "jobs:slow", "-i", "in", "-o", "out", "-n", "2"],
            cwd=folder,
            env=environment({"COLUMNS": "200", "TERM": "xterm"}),
            stderr=end,
            start_new_session=True,
        )
        os.close(end)
        told = b""
        with contextlib.suppress(OSError):  # nobody has the other end any more
            while data := os.read(terminal, 4096):
                told += data
        assert process.wait(60) == Exit.OK
    finally:
        os.close(terminal)
    words = told.decode()
    assert "lines/s" in words
    assert "%" in words
    assert "line 1 has kept others waiting for" in words
    assert words.splitlines()[-1] == "5 lines, 5 results"
    assert read(folder / "out") == [6.5, 0, 0, 0, 0]


@pytest.mark.long
def test_each_line_of_a_file_is_there_once_under_fire():
    """Killed twice, and Consumers beside, with lines that fail, kill, or have two results: as without a fault."""
    command = [sys.executable, "-m", "tests.chaos.lines", "--lines", "6000", "--kills", "2", "--controls", "no"]
    done = subprocess.run(command, cwd=ROOT, env=plain(), capture_output=True, text=True, timeout=380, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
