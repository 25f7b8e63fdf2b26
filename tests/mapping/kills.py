"""Writes the files of a run and is killed at each step of that in turn, once, and then at each step of what goes on.

Run as a program by test_files.py, because it forks. Prints how many steps there were.
"""

import os
import shutil
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from mqworker.brokers.files.window import Extent, Portion
from mqworker.mapping.files import MapFiles
from mqworker.mapping.work import Work

WORK = Work(("a:b",), {}, text=False)
LINES = 6
KILLED = 9


def result(number: int) -> list[bytes]:
    """Return the results of a line; every third has a letter instead."""
    return [] if number % 3 == 0 else [b"%d" % number, b"x" * number]


def letters(number: int) -> list[bytes]:
    """Return the letters of a line."""
    return [b"letter %d" % number] if number % 3 == 0 else []


def place(line: int) -> Extent:
    """Return the place behind a line."""
    return Extent(line, 10 * line, sha256(b"%d" % line).hexdigest())


def portion(first: int, last: int) -> Portion:
    """Return what was made of some lines."""
    numbers = range(first, last + 1)
    results = [each for number in numbers for each in result(number)]
    return Portion(results, [each for number in numbers for each in letters(number)], place(last), len(numbers), 0)


def write(out: Path, each: int) -> None:
    """Do a run, or go on with one."""
    files = MapFiles(out, out.with_name("out.dead"), WORK, resumable=True)
    files.claim(resume=True)
    if not files.state.complete:
        files.open()
        while (line := files.state.place.line) < LINES:
            assert files.state.place == (place(line) if line else Extent())
            files.store(portion(line + 1, min(LINES, line + each)))
        files.complete()
    files.finish()
    files.leave()


def die_at(step: int) -> Callable[[], int]:
    """Let this process end at a step, in its middle or behind it; returns a function that says how many were done."""
    done = 0

    def count(function: Callable[..., Any], *, half: bool = False) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            nonlocal done
            done += 1
            if done == step:
                if half:
                    function(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os._exit(KILLED)
            returned = function(*arguments, **more)
            done += 1
            if done == step:
                os._exit(KILLED)
            return returned

        return counted

    os.write = count(os.write, half=True)
    for name in ("fsync", "fdatasync", "ftruncate", "open", "rename", "replace", "unlink", "mkdir", "rmdir"):
        setattr(os, name, count(getattr(os, name)))
    return lambda: done


def run(out: Path, step: int, each: int) -> bool:
    """Run in a process that dies at a step; returns whether it died."""
    pid = os.fork()
    if not pid:
        die_at(step)
        try:
            write(out, each)
        except BaseException as error:  # noqa: BLE001 - told, and seen by the code
            print(f"step {step}: {error!r}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, KILLED), f"step {step}: exit code {code}"
    return code == KILLED


def whole(out: Path) -> None:
    """Look whether all is there, once."""
    expected = [each for number in range(1, LINES + 1) for each in result(number)]
    dead = [each for number in range(1, LINES + 1) for each in letters(number)]
    assert out.read_bytes().splitlines() == expected
    assert out.with_name("out.dead").read_bytes().splitlines() == dead
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name, "out.dead"]


def main(folder: Path) -> None:
    """Kill at each step."""
    step = 0
    while True:
        step += 1
        here = folder / f"step-{step}"
        here.mkdir()
        out = here / "out"
        died = run(out, step, 2)
        if died:  # and what goes on dies too, at another step
            run(out, 1 + step * 7 % 40, 1)
            assert not run(out, 0, 3)
        whole(out)
        shutil.rmtree(here)
        if not died:
            break
    print(step)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
