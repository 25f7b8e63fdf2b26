"""Programs as jobs: what each end means, what it costs, and that nothing which a program started outlives it."""

import contextlib
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from mqworker import ProgramError, Reject, Retry, SoftTimeLimit
from mqworker.amqp.properties import Properties
from mqworker.config.model import InputConfig, StageConfig
from mqworker.config.programs import command_of, is_program, shown, spec_of
from mqworker.errors import HardTimeLimit
from mqworker.jobs import program_keeper
from mqworker.jobs.chain import Chain
from mqworker.jobs.codecs import OversizedError, UnencodableError
from mqworker.jobs.loading import JobLoadError, load_job, make_job
from mqworker.jobs.message import Message
from mqworker.jobs.program import Programs
from mqworker.jobs.program_run import CannotStart
from mqworker.testing import run_job
from tests.support.waiting import wait_for, within

MARK = "MQWORKER_TEST_PROGRAM"
MIB = 1 << 20


class Limits:
    """Time limits as a message in a Consumer has them."""

    def __init__(self, soft=math.inf, hard=math.inf):
        self.soft, self.hard = soft, hard
        self.left = None  # of the soft one, after the run

    def take_over(self):
        return self.soft, self.hard

    def give_back(self, soft):
        self.left = soft


class Stage:
    """A chain with programs, and what they leave behind: every process below it carries a mark in its environment."""

    def __init__(self, folder, mark):
        self.folder = folder
        self.mark = mark
        self.limits = Limits()
        self.chain = None

    def use(self, *jobs, codec="json", most=64 * MIB):
        """Set up a chain of commands, and of functions."""
        self.close()
        texts = tuple(spec_of(job) for job in jobs if not callable(job))
        config = StageConfig(input=InputConfig(queue="in"), jobs=texts, codec=codec, max_results_bytes=most)
        loaded = [make_job(job, None, "m:f") if callable(job) else load_job(spec_of(job), self.folder) for job in jobs]
        programs = Programs("solve", config, self.limits)
        self.chain = Chain(loaded, {}, "solve", logging.getLogger("test.program"), None, programs)
        self.chain.setup()
        return self

    def sh(self, script, **more):
        """Set up a chain of one shell script."""
        return self.use(("sh", "-c", script), **more)

    def run(self, body=b"", **properties):
        """Run the chain on a message."""
        block = Properties(**{"message_id": "m-1", **properties}).encode()
        return self.chain.run(body, Message(b"raw", block, attempt=2))

    def processes(self):
        """Return the pids of all that has the mark and is not a zombie, by name."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                alive = path.joinpath("stat").read_text().rpartition(") ")[2][0] not in "ZX"
                if alive and self.mark.encode() in path.joinpath("environ").read_bytes():
                    found[int(path.name)] = path.joinpath("comm").read_text().strip()
        found.pop(os.getpid(), None)
        return found

    def close(self):
        """Tear the chain down."""
        if self.chain is not None:
            self.chain.teardown()


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Makes chains; afterwards no process and no descriptor is left."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    before = len(list(Path("/proc/self/fd").iterdir()))
    made = Stage(tmp_path, mark)
    yield made
    made.close()
    assert made.processes() == {}
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- what comes out

RESULTS = {
    "echo": ("cat", b'{"a": [1, "\xc3\xa4"]}', "json", {"a": [1, "ä"]}),
    "null drops": ("echo null", b"", "json", None),
    "text": ("tr a-z A-Z", b"hello", "text", "HELLO"),
    "nothing is a text": ("true", b"", "text", ""),
    "bytes": ("printf '\\000\\377'", b"", "bytes", b"\x00\xff"),
    "awk": ("awk '{ sum += $1 } END { print sum }'", b"1\n2\n3.5\n", "json", 6.5),
    "it closes stdin": ("exec 0<&-; echo 1", b"x" * MIB, "json", 1),
    "it reads nothing": ("echo 1", b"x" * (16 * MIB), "json", 1),
    "it reads a part": ("head -c 3", b"123" * MIB, "json", 123),
    "it opens stdin by name": ("cat /dev/stdin /dev/stdin", b"1", "json", 11),
    "it closes stdout and goes on": ("echo 1; exec 1>&-; sleep 0.3; true", b"", "json", 1),
    "it closes both and goes on": ("echo 1; exec 1>&- 2>&-; sleep 0.3; true", b"", "json", 1),
    "a whole MiB through pipes": ("cat | cat | cat", b"y" * (16 * MIB), "bytes", b"y" * (16 * MIB)),
    "a broken pipe": ("yes | head -1", b"", "text", "y\n"),
    "it finds the message": (
        'printf "$MQWORKER_MESSAGE_ID $MQWORKER_STAGE $MQWORKER_ATTEMPT"',
        b"",
        "text",
        "m-1 solve 2",
    ),
}


@pytest.mark.parametrize(("script", "body", "codec", "result"), RESULTS.values(), ids=RESULTS)
def test_what_it_writes_to_stdout_is_the_result(stage, script, body, codec, result):
    """With exit code 0 stdout is decoded by the codec, however the program treats its stdin and stdout."""
    assert stage.sh(script, codec=codec).run(body) == result


def test_it_gets_what_would_be_published(stage):
    """Behind another job: bytes as they are, text as UTF-8, anything else by the codec; what cannot be is a failure."""
    cat = ("cat",)
    for value, codec, result in (
        (b"\xff", "bytes", b"\xff"),
        ("ä", "text", "ä"),
        ("[1]", "json", [1]),
        ({"n": 1}, "json", {"n": 1}),
        ({"n": b"1"}, "msgpack", {"n": b"1"}),
    ):
        assert stage.use(lambda _, value=value: value, cat, codec=codec).run() == result
    with pytest.raises(UnencodableError, match="must be text or bytes"):
        stage.use(lambda _: {"n": 1}, cat, codec="text").run()
    assert stage.use(lambda _: [1], cat, lambda body: [*body, 2], ("tr", "12", "34")).run() == [3, 4]
    doubled = stage.use(lambda _: (each for each in (1, 2)), ("awk", "{ print 2 * $0 }")).run()
    assert list(doubled) == [2, 4]


def test_it_finds_what_any_program_finds(stage, tmp_path):
    """Its folder, a session of its own, three descriptors, default signals, the environment of its Consumer."""
    script = (
        "import json, os, signal, sys\n"
        "json.dump([os.getcwd(), os.getsid(0) == os.getpid(), sorted(map(int, os.listdir('/proc/self/fd')))[:3],"
        " len(os.listdir('/proc/self/fd')), signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set(),"
        " [line for line in open('/proc/self/status') if line.startswith('SigIgn')][0].split()[1],"
        " sys.argv[1:], os.environ['HOME']], sys.stdout)\n"
    )
    (tmp_path / "look.py").write_text(script)
    # one descriptor more is that of the listing; Python itself ignores SIGPIPE and SIGXFSZ
    found = stage.use((sys.executable, "-S", "look.py", "a b", "$HOME", "*")).run()
    ignored = f"{1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1):016x}"
    assert found == [str(tmp_path), True, [0, 1, 2], 4, True, ignored, ["a b", "$HOME", "*"], os.environ["HOME"]]
    assert stage.sh("trap '' PIPE; grep SigIgn /proc/self/status | cut -f2", codec="text").run().strip("0\n") == "1"
    assert stage.sh("grep SigIgn /proc/self/status | cut -f2", codec="text").run().strip("0\n") == ""


# --- how it may fail

FAILURES = {
    "reject": ("echo no >&2; echo 'bad input' >&2; exit 65", Reject, "^bad input\n"),
    "reject in silence": ("exit 65", Reject, "exited with code 65"),
    "retry": ("echo later >&2; exit 75", Retry, "^later\n"),
    "an error": ("echo why >&2; exit 3", ProgramError, "exited with code 3, peak memory [0-9]+ MiB\n"),
    "a signal": ("kill -SEGV $$", ProgramError, "killed by SIGSEGV"),
    "its own kill": ("kill -KILL $$", ProgramError, "killed by SIGKILL"),
    "no command": ("no-such-command", ProgramError, "exited with code 127"),
    "nothing": ("true", ProgramError, "code 0, but what it wrote to stdout cannot be used: the body is not JSON"),
    "no JSON": ("echo hello", ProgramError, "cannot be used: the body is not JSON"),
}


@pytest.mark.parametrize(("script", "kind", "words"), FAILURES.values(), ids=FAILURES)
def test_how_it_ends_decides_about_the_message(stage, script, kind, words):
    """65 rejects, 75 retries, everything else is an error with its evidence; the next message is not concerned."""
    stage.sh(f'[ "$(cat)" = good ] && echo 1 && exit; {script}')
    with pytest.raises(kind, match=words) as caught:
        stage.run(b"bad")
    wrote = script.partition("echo ")[2].partition(" >&2")[0].strip("'") if ">&2" in script else ""
    assert wrote in "".join(getattr(caught.value, "__notes__", ""))
    assert stage.run(b"good") == 1


def test_what_goes_to_stderr_is_logged_line_by_line(stage, caplog):
    """Each line as it comes, with the program; long lines are cut, above 1,000 they are counted, the last are kept."""
    caplog.set_level("INFO")
    stage.sh("echo one >&2; printf '\\n\\377two' >&2; echo 1").run()
    assert [(record.getMessage(), record.event) for record in caplog.records] == [
        ("one", "output"),
        ("\\xfftwo", "output"),
    ]
    assert caplog.records[0].fields["program"].startswith("sh -c")
    caplog.clear()
    with pytest.raises(ProgramError) as caught:
        stage.sh("yes | head -n 200000 >&2; echo the end >&2; exit 1").run()
    said = [record.getMessage() for record in caplog.records]
    assert said == ["y"] * 1000 + ["... and 199,001 more lines"]
    assert caught.value.__notes__[0].endswith("y\nthe end")
    caplog.clear()
    stage.sh("head -c 50000000 /dev/zero | tr '\\0' x >&2; echo 1").run()
    assert [len(record.getMessage()) for record in caplog.records] == [8192]


def test_too_much_output_is_stopped(stage):
    """Who writes for ever to stdout is killed at the bound, and has cost no more memory than that."""
    with within(20, "the end of an endless program"), pytest.raises(OversizedError, match="more than 1,048,576 bytes"):
        stage.sh("yes", most=MIB).run()
    assert stage.sh("head -c 1048576 /dev/zero", most=MIB, codec="bytes").run() == bytes(MIB)


LARGE_PIPE = """\
import fcntl, os, sys
fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20)
os.write(2, b"one\\n")
os.write(1, b"x" * (1 << 20))
os.write(2, b"two\\n")
"""


def test_what_is_in_a_large_pipe_at_the_end_is_read_to_its_end(stage, monkeypatch):
    """A program that has enlarged its stdout has its whole result, however long its Consumer stands still meanwhile."""

    class Slow(logging.Handler):
        def emit(self, record):
            time.sleep(1.2)  # the program ends, and then more than a second passes

    slow = Slow()
    logger = logging.getLogger("test.program")
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.addHandler(slow)
    try:
        assert stage.use((sys.executable, "-c", LARGE_PIPE), codec="bytes").run() == b"x" * MIB
    finally:
        logger.removeHandler(slow)


# --- time

TIMES = {
    "it hangs": ("sleep 1000", 0.3, math.inf, SoftTimeLimit, "killed by SIGTERM.*: the soft time limit has passed"),
    "a child hangs": ("sleep 1000; exit 5", 0.3, math.inf, SoftTimeLimit, "soft time limit"),
    "it cleans up and fails": ("trap 'exit 4' TERM; sleep 1000 & wait", 1.0, math.inf, SoftTimeLimit, "code 4"),
    "it rejects in time": ("trap 'exit 65' TERM; sleep 1000 & wait", 1.0, math.inf, Reject, "exited with code 65"),
    "it ignores TERM": (
        "trap '' TERM; sleep 1000",
        1.0,
        1.6,
        HardTimeLimit,
        "SIGKILL.*: the hard time limit has passed",
    ),
    "hard alone": ("sleep 1000", math.inf, 0.3, HardTimeLimit, "hard time limit"),
    "it stops itself": ("kill -STOP $$", math.inf, 0.5, HardTimeLimit, "hard time limit"),
    "another group": ("setsid sleep 1000 & sleep 1000", math.inf, 0.3, HardTimeLimit, "hard time limit"),
    "no time left": ("sleep 1000", math.inf, 0.0, HardTimeLimit, "hard time limit"),
}


@pytest.mark.parametrize(("script", "soft", "hard", "kind", "words"), TIMES.values(), ids=TIMES)
def test_a_limit_of_time_ends_it(stage, script, soft, hard, kind, words):
    """Soft: SIGTERM to its group; hard: SIGKILL; then nothing of it is left, and the next message runs."""
    stage.limits = Limits(soft, hard)
    stage.sh(f'[ "$(cat)" = good ] && echo 1 && exit; {script}')
    with within(20, "the end of the program"), pytest.raises(kind, match=words):
        stage.run(b"bad")
    assert stage.limits.left == (0.0 if soft < math.inf else math.inf)
    assert list(stage.processes().values()) == ["mqw-keeper"]
    stage.limits.soft = stage.limits.hard = math.inf
    assert stage.run(b"good") == 1


def test_what_it_returns_after_the_soft_limit_counts(stage):
    """A program that catches SIGTERM, writes its best so far and exits with 0 has a result."""
    stage.limits = Limits(1.0, 30.0)
    assert stage.sh("trap 'echo 7; exit 0' TERM; sleep 1000 & wait").run() == 7
    assert stage.limits.left == 0.0
    stage.limits.soft = 30.0
    assert stage.sh("echo 8").run() == 8
    assert 0.0 < stage.limits.left < 30.0


def test_a_program_that_stops_its_parent_hangs_nothing(stage):
    """A keeper that was stopped goes on soon, so that the end of the program is told without any limit."""
    stage.sh("kill -STOP $PPID; echo 1")
    with within(20, "the end of the program"):
        assert stage.run() == 1


def test_a_program_that_stops_its_parent_meets_its_hard_limit(stage):
    """The message is a timeout, and all that the program has started is dead, as if nobody had stopped the keeper."""
    stage.limits = Limits(math.inf, 0.3)
    stage.sh('[ "$(cat)" = good ] && echo 1 && exit; kill -STOP $PPID; sleep 1000 & exec sleep 1000')
    with within(20, "the end of the program"), pytest.raises(HardTimeLimit):
        stage.run(b"bad")
    assert list(stage.processes().values()) == ["mqw-keeper"]
    stage.limits.hard = math.inf
    assert stage.run(b"good") == 1


# --- what it leaves behind

LEFT = {
    "a child in its group": "sleep 1000 &",
    "a child in its own session": "setsid sleep 1000 &",
    "a daemon": "(setsid sleep 1000 &) ; (sleep 1000 &)",
    "one that is deaf": "(trap '' TERM HUP; sleep 1000; sleep 1000) &",
    "many": "for n in 1 2 3 4 5 6 7 8 9; do (setsid sh -c 'sleep 1000 & sleep 1000' &); done",
}


@pytest.mark.parametrize("script", LEFT.values(), ids=LEFT)
def test_nothing_that_it_started_outlives_it(stage, caplog, script):
    """When the outcome is there, everything that the program has started is dead, also what left group and session."""
    caplog.set_level("INFO")
    stage.sh(f"{script}\necho 1")
    for _ in range(3):
        assert stage.run() == 1
        assert list(stage.processes().values()) == ["mqw-keeper"]
    (keeper,) = stage.processes()
    assert stage.run() == 1
    assert list(stage.processes()) == [keeper], "the same keeper"
    left = [record for record in caplog.records if getattr(record, "event", "") == "program_left"]
    assert len(left) == 4
    assert "which were killed" in left[0].getMessage()


def test_a_program_that_kills_its_parent_fails_alone(stage):
    """Its parent is the keeper: the program dies with it, its message fails, the next has a keeper of its own."""
    stage.sh('[ "$(cat)" = good ] && echo 1 && exit; kill -KILL $PPID; exec sleep 1000')
    (before,) = stage.processes()
    with pytest.raises(ProgramError, match="was killed, because the process"):
        stage.run(b"bad")
    assert stage.run(b"good") == 1
    assert before not in stage.processes()
    wait_for(lambda: list(stage.processes().values()) == ["mqw-keeper"], 5, "the program to be gone")


PARENT = """\
import os, time
from mqworker.testing import run_job

def copy(body):
    if not os.fork():  # it holds what its parent has open
        while True:
            time.sleep(60)
    return body

run_job([copy, {"exec": ["sh", "-c", "setsid sleep 1000 & sleep 1000 & touch begun; sleep 1000"]}], 1)
"""


def test_who_kills_its_consumer_ends_it_too(stage, tmp_path):
    """When the process that runs a chain is killed, the program and all that it started are gone within 3 s.

    So they are although a copy that a handler has forked lives on, and holds the socket to the keeper.
    """
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    ) as parent:
        wait_for((tmp_path / "begun").exists, 30, "the program to begin")
        wait_for(lambda: list(stage.processes().values()).count("sleep") == 3, 10, "its children to begin")
        parent.kill()
    wait_for(lambda: {*stage.processes().values()}.isdisjoint(("sleep", "sh", "mqw-keeper")), 3, "all to be gone")
    (copy,) = stage.processes()
    os.kill(copy, signal.SIGKILL)
    wait_for(lambda: not stage.processes(), 5, "the copy to be gone")


def test_an_exception_in_the_middle_of_a_run_leaves_nothing(stage):
    """A signal handler of user code that raises ends the program with its message."""

    def ring(*_):
        raise KeyError("from a handler")

    before = signal.signal(signal.SIGUSR1, ring)
    bell = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        stage.sh('[ "$(cat)" = good ] && echo 1 && exit; sleep 1000')
        bell.start()
        with pytest.raises(KeyError):
            stage.run(b"bad")
        assert stage.processes() == {}
        assert stage.run(b"good") == 1
    finally:
        bell.join(5)
        signal.signal(signal.SIGUSR1, before)


# --- what cannot be run


def test_what_cannot_be_run_is_told_with_the_fix(tmp_path):
    """Missing, a folder, not executable, not on the PATH: one sentence each, before any message."""
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "folder").mkdir()
    for command, words in {
        ("./missing",): f"program ./missing: there is no file {tmp_path}/missing; name the program itself; "
        f"a relative path starts at {tmp_path}",
        ("./folder",): f"program ./folder: {tmp_path}/folder is not a file; name the program itself; "
        f"a relative path starts at {tmp_path}",
        ("./plain",): f"program ./plain: {tmp_path}/plain is not executable; chmod +x {tmp_path}/plain",
        ("plain",): f'program plain: there is no program plain on the PATH; write "./plain" for the one in {tmp_path}',
        ("no-such",): "program no-such: there is no program no-such on the PATH; install it, or give its path",
        ("sh", "\0"): "program sh: an argument has a NUL character, which no program can get; leave it out",
    }.items():
        with pytest.raises(JobLoadError) as caught:
            load_job(spec_of(command), tmp_path)
        assert str(caught.value) == words


def test_what_cannot_be_started_any_more_fails_its_message(stage, tmp_path):
    """A file that is gone, one whose interpreter is missing, one that is no program: an error with the reason."""
    file = tmp_path / "solver"
    for content, words in (
        ("#!/no/such/interpreter\n", "cannot be executed: No such file.*first line"),
        ("no program\n", "cannot be executed: Exec format error"),
        ("#!/bin/sh\necho 1\n", ""),
    ):
        file.write_text(content)
        file.chmod(0o755)
        stage.use(("./solver",))
        if words:
            with pytest.raises(ProgramError, match=words):
                stage.run()
        else:
            assert stage.run() == 1
    file.unlink()
    with pytest.raises(ProgramError, match=r"\./solver could not be started: it cannot be executed: No such file"):
        stage.run()


def test_a_keeper_that_cannot_begin_is_told_before_any_message(stage, tmp_path, monkeypatch):
    """Whoever sets a chain up hears that its programs cannot run, and nothing is left of the attempt."""
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(3)")
    monkeypatch.setattr(program_keeper, "__file__", str(broken))
    with pytest.raises(CannotStart, match="the process that runs programs exited with code 3 as it began"):
        stage.sh("echo 1")
    assert stage.processes() == {}


def test_a_program_as_text_is_read_back():
    """Whatever the arguments are; a function or class is never taken for a program."""
    for command in (("a",), ("./a b", '"', "ä", "\n"), ("x" * 300,)):
        assert command_of(spec_of(command)) == command
        assert is_program(spec_of(command))
    assert not is_program("exec:f")
    assert shown(spec_of(("./a b", "--fast"))) == "'./a b' --fast"
    assert (shown("m:f"), len(shown(spec_of(("x" * 300,))))) == ("m:f", 203)


def test_users_can_test_their_programs(tmp_path):
    """`run_job` takes a program as the configuration does, alone or in a chain."""
    shutil.copy(shutil.which("cat"), tmp_path / "copy")
    assert run_job({"exec": ["./copy"]}, {"n": 1}, root=tmp_path) == {"n": 1}
    assert run_job([lambda body: body["n"], {"exec": ["./copy"], "name": "c"}], {"n": 2}, root=tmp_path) == 2
    with pytest.raises(ProgramError):
        run_job({"exec": ["false"]}, 1)
