"""The code check: whatever user code does when it is imported, the caller gets an answer."""

import asyncio
import os
import time

import pytest

from mqworker.code_check.client import check_code
from tests.support.loop import on_loop
from tests.support.waiting import until

GOOD = """
import dataclasses
@dataclasses.dataclass
class Params:
    size: int
    names: list[str] = dataclasses.field(default_factory=lambda: ["a"])
def handle(body, params):
    return body
"""
UP = "import multiprocessing; up = multiprocessing.current_process().up.fileno()"  # the pipe of the answer


@pytest.fixture
def events():
    """What was logged."""
    return []


@pytest.fixture
def ask(tmp_path, events):
    """Write a module and have it looked at."""

    def asked(source, params=None, deadline=30.0, **stage):
        (tmp_path / "job.py").write_text(source)
        question = check_code("s", tmp_path, ("job:handle",), params or {}, deadline, events.append, **stage)
        return asyncio.run(question)

    return asked


def test_good_code_has_no_problems_and_tells_its_defaults(ask):
    """Parameters are returned with the defaults filled in."""
    answer = ask(GOOD, {"size": 3})
    assert (answer.problems, answer.fields, answer.died) == ([], [], False)
    assert answer.defaults == {"size": 3, "names": ["a"]}


ASYNC = "async def handle(body):\n    return body\n"


@pytest.mark.parametrize(
    ("source", "concurrency", "soft_limit", "refused"),
    [
        (GOOD, 1, 5.0, False),
        (GOOD, 2, 0.0, False),
        (GOOD, 2, 5.0, True),
        (ASYNC, 1, 5.0, False),
        (ASYNC, 64, 5.0, False),
    ],
)
def test_a_soft_limit_is_refused_where_it_cannot_interrupt(ask, source, concurrency, soft_limit, refused):
    """A plain function that runs in a thread beside others: it is named, with what to do."""
    answer = ask(source, {"size": 1}, concurrency=concurrency, soft_limit=soft_limit)
    assert bool(answer.problems) is refused
    if refused:
        assert 'job "job:handle" runs in a thread beside others' in answer.problems[0]


def test_nothing_is_left_beside_the_code(ask, tmp_path):
    """No bytecode is written: a Consumer could take it for code edited within the same second to the same size."""
    ask(GOOD)
    assert [path.name for path in tmp_path.iterdir()] == ["job.py"]


def test_wrong_parameters_are_told_by_field(ask):
    """Each bad field is reported with what is wrong about it."""
    answer = ask(GOOD, {"size": "x"})
    assert [field for field, _ in answer.fields] == ["size"]
    assert not answer.problems
    assert not answer.died
    assert [field for field, _ in ask(GOOD).fields] == ["size"]


@pytest.mark.parametrize(
    ("source", "said", "died"),
    [
        ("raise ValueError('at import')", "at import", False),
        ("raise SystemExit(3)", "SystemExit", False),
        ("import nothing_of_that_name", "nothing_of_that_name", False),
        ("def other(body): ...", "handle", False),
        ("def handle(: pass", "SyntaxError", False),
        ("raise ValueError('\\udcff')", "ValueError", False),
        ("import os; os._exit(7)", "exited with code 7", True),
        ("import ctypes; ctypes.string_at(0)", "killed by SIGSEGV", True),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL", True),
        ("raise KeyboardInterrupt", "exited with code 1", True),
        ("import os, time; os.closerange(3, 99); time.sleep(60)", "it closed its pipe", True),
        (f"{UP}; import os; os.write(up, b'x' * 99)", "its pipe carried something else", True),
    ],
)
def test_bad_code_is_reported(ask, capfd, source, said, died):
    """A module that raises, exits, crashes or breaks its pipe costs the check alone, and the report says which."""
    answer = ask(source)
    assert said in "; ".join(answer.problems)
    assert answer.died is died
    assert capfd.readouterr() == ("", "")


def test_code_that_hangs_is_given_up(ask):
    """At the deadline the code check is killed and reported as late."""
    began = time.monotonic()
    answer = ask("import time, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)", deadline=0.7)
    assert time.monotonic() - began < 30
    assert answer.died
    assert "longer than 0.7 s" in answer.problems[0]


def test_what_is_printed_is_logged_and_no_answer(ask, events, capfd):
    """Each line that the code writes to stdout or stderr is a log event of its stage; nothing is written raw."""
    answer = ask("import os\nprint('hello')\nos.write(2, b'raw\\ncut')\ndef handle(body): ...")
    assert (answer.problems, answer.died) == ([], False)
    assert [event.msg for event in events] == ["hello", "raw", "cut"]
    assert {(event.event, event.process, event.stage) for event in events} == {("output", "s.code-check", "s")}
    assert capfd.readouterr() == ("", "")


def test_a_traceback_of_dying_code_is_logged(ask, events, capfd):
    """What Python writes when user code ends the process is in the log, where the operator looks for the reason."""
    assert ask("raise KeyboardInterrupt").died
    assert "KeyboardInterrupt" in [event.msg for event in events]
    assert capfd.readouterr() == ("", "")


def test_threads_of_the_users_code_do_not_keep_the_answer(ask):
    """A thread that never ends is killed with the code check."""
    began = time.monotonic()
    answer = ask("import threading, time\nthreading.Thread(target=time.sleep, args=[60]).start()\ndef handle(b): ...")
    assert (answer.problems, answer.died) == ([], False)
    assert time.monotonic() - began < 25  # before the deadline


def descriptors() -> set[str]:
    """Return the open descriptors of this process."""
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - strings, of which no Path is made


@on_loop
async def test_the_loop_goes_on_meanwhile(tmp_path):
    """Called from the main loop, a code check takes none of its time, and leaves no descriptor open."""
    (tmp_path / "job.py").write_text("import time\ntime.sleep(0.3)\ndef handle(body): ...")
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)")
    before = descriptors()
    turns = 0

    async def turn():
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    turning = asyncio.create_task(turn())
    good, late = await asyncio.gather(
        check_code("s", tmp_path, ("job:handle",), {}, 30.0, print),
        check_code("s", tmp_path, ("slow:handle",), {}, 0.6, print),
    )
    turning.cancel()
    assert (good.problems, good.died) == ([], False)
    assert late.died
    assert turns > 10
    assert len(descriptors() - before) <= 1  # multiprocessing's resource tracker


@on_loop
async def test_code_that_breaks_the_answer_off_never_blocks_the_loop(tmp_path):
    """Half an answer and then silence: the loop keeps turning, and the deadline ends the check."""
    (tmp_path / "job.py").write_text(f"{UP}; import os, time; os.write(up, bytes(7)); time.sleep(60)")
    longest = 0.0

    async def turn():
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - before)

    turning = asyncio.create_task(turn())
    answer = await check_code("s", tmp_path, ("job:handle",), {}, 1.5, print)
    turning.cancel()
    assert "longer than 1.5 s" in answer.problems[0]
    assert longest < 1.2


@on_loop
async def test_an_asker_that_is_cancelled_leaves_nobody_behind(tmp_path):
    """The process is gone, and reaped, when the cancelled check has returned."""
    (tmp_path / "job.py").write_text(
        "import os, pathlib, time\npathlib.Path(__file__).with_name('pid').write_text(str(os.getpid()))\ntime.sleep(60)"
    )
    checking = asyncio.create_task(check_code("s", tmp_path, ("job:handle",), {}, 30.0, print))
    pid = int(await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), 20, "the import"))
    checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


GENERATES = """
from pathlib import Path
Path(__file__).with_name("generated.py").write_text("VALUE = 1")
import generated
def handle(body):
    return generated.VALUE
"""


def test_modules_that_the_code_writes_while_it_is_imported_are_found(tmp_path):
    """They are not in the first copy, so the code is looked at once more; code that goes on changing is refused."""
    state = tmp_path / "state"
    state.mkdir()
    root = tmp_path / "app"
    root.mkdir()
    (root / "job.py").write_text(GENERATES)
    answer = asyncio.run(check_code("s", root, ("job:handle",), {}, 30.0, print, state_dir=state))
    assert (answer.problems, (answer.copy.path(state) / "generated.py").exists()) == ([], True)
    (root / "job.py").write_text(
        GENERATES.replace('"generated.py"', 'f"generated_{id(object())}.py"') + "raise ValueError"
    )
    answer = asyncio.run(check_code("s", root, ("job:handle",), {}, 30.0, print, state_dir=state))
    assert len(answer.problems) == 1


def test_a_check_that_never_ends_still_tells_the_copy(tmp_path):
    """Code that takes too long to import is kept: the Consumers that find out what it does run the same."""
    (tmp_path / "job.py").write_text("import time; time.sleep(60)")
    answer = asyncio.run(check_code("s", tmp_path, ("job:handle",), {}, 0.5, print, state_dir=tmp_path / "state"))
    assert answer.died
    assert answer.copy is None
    (tmp_path / "state").mkdir()
    answer = asyncio.run(check_code("s", tmp_path, ("job:handle",), {}, 3.0, print, state_dir=tmp_path / "state"))
    assert answer.died
    assert answer.copy.path(tmp_path / "state").is_dir()
