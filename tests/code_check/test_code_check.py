"""The code check: whatever user code does when it is imported, the caller gets an answer."""

import asyncio
import os
import time

import pytest

from mqworker.code_check.client import check_code, check_stage
from tests.support.loop import on_loop

GOOD = """
import dataclasses
@dataclasses.dataclass
class Params:
    size: int
    names: list[str] = dataclasses.field(default_factory=lambda: ["a"])
def handle(body, params):
    return body
"""


@pytest.fixture
def ask(tmp_path):
    """Write a module and have it checked."""

    def asked(source, params=None, deadline=30.0):
        (tmp_path / "job.py").write_text(source)
        return check_stage(tmp_path, ("job:handle",), params or {}, deadline)

    return asked


def test_good_code_has_no_problems_and_tells_its_defaults(ask):
    """Parameters are returned with the defaults filled in."""
    answer = ask(GOOD, {"size": 3})
    assert (answer.problems, answer.fields, answer.died) == ([], [], False)
    assert answer.defaults == {"size": 3, "names": ["a"]}


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
    ],
)
def test_bad_code_is_told(ask, capfd, source, said, died):
    """A module that raises, exits or crashes costs only the code check, which reports which it was."""
    answer = ask(source)
    assert said in "; ".join(answer.problems)
    assert answer.died is died
    assert capfd.readouterr().out == ""


def test_code_that_hangs_is_given_up(ask):
    """At the deadline the code check is killed and reported as late."""
    began = time.monotonic()
    answer = ask("import time, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)", deadline=0.7)
    assert time.monotonic() - began < 5
    assert answer.died
    assert "longer than 0.7 s" in answer.problems[0]


def test_what_is_printed_is_no_answer(ask, capfd):
    """Text for stdout goes to stderr, because stdout is the Service's; the answer stays intact."""
    answer = ask("import os\nprint('hello')\nos.write(1, b'raw\\n')\ndef handle(body): ...")
    assert (answer.problems, answer.died) == ([], False)
    out, err = capfd.readouterr()
    assert (out, sorted(err.splitlines())) == ("", ["hello", "raw"])


def test_threads_of_the_users_code_do_not_keep_the_answer(ask):
    """A thread that never ends is killed with the code check."""
    began = time.monotonic()
    answer = ask("import threading, time\nthreading.Thread(target=time.sleep, args=[60]).start()\ndef handle(b): ...")
    assert (answer.problems, answer.died) == ([], False)
    assert time.monotonic() - began < 10


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
        check_code(tmp_path, ("job:handle",), {}), check_code(tmp_path, ("slow:handle",), {}, deadline=0.6)
    )
    turning.cancel()
    assert (good.problems, good.died) == ([], False)
    assert late.died
    assert turns > 10
    assert len(descriptors() - before) <= 1  # multiprocessing's resource tracker
