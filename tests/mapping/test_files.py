"""The files of a run: whatever it is killed at, the next one goes on, and each line is there once."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mqworker.brokers.files.window import Extent, Portion
from mqworker.exits import Exit
from mqworker.mapping.files import MapFiles
from mqworker.mapping.work import MapError, Work
from tests.support.environment import plain

WORK = Work(("a:b",), {"n": 1}, text=False)


def made(folder, work=WORK, output="out", *, resume=False, resumable=True, dead="out.dead"):
    """Return claimed files."""
    files = MapFiles(folder / output, folder / dead, work, resumable=resumable)
    files.claim(resume=resume)
    return files


def portion(line, *results, dead=()):
    """Return a portion that ends behind a line."""
    return Portion(list(results), list(dead), Extent(line, line, "digest"), 1, 0)


def release(files):
    """Give up the lock, as the end of a process does."""
    os.close(files._lock)
    if hasattr(files, "_dead"):
        os.close(files._dead._fd)


def test_a_kill_at_any_step_leaves_what_another_run_goes_on_with(tmp_path):
    """Killed in and after each of its system calls, and again while it goes on, a run ends with each line once."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("kills.py"), tmp_path],
        cwd=Path(__file__).parents[2],
        env=plain() | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


def test_an_unfinished_run_is_an_error_that_says_so(tmp_path):
    """Without --resume nothing is touched, and the sentence says what goes on with it."""
    files = made(tmp_path)
    files.open()
    files.store(portion(7, b"r"))
    release(files)
    with pytest.raises(MapError, match="unfinished run, 7 lines so far: --resume goes on") as error:
        made(tmp_path)
    assert error.value.code == Exit.USAGE
    assert (tmp_path / "out.part").read_bytes() == b"r\n"


@pytest.mark.parametrize(
    ("work", "dead", "told"),
    [
        (Work(("a:c",), {"n": 1}, text=False), "out.dead", "other jobs: a:b, not a:c"),
        (Work(("a:b",), {"n": 2}, text=False), "out.dead", 'other parameters: {"n":1}, not {"n":2}'),
        (Work(("a:b",), {"n": 1}, text=True), "out.dead", "other form of the lines: JSON, not text"),
        (WORK, "elsewhere", "other file of dead letters"),
    ],
)
def test_only_the_same_work_is_resumed(tmp_path, work, dead, told):
    """Another job, other parameters, another form or another file of dead letters is refused, and said."""
    files = made(tmp_path)
    files.open()
    release(files)
    with pytest.raises(MapError) as error:
        made(tmp_path, work, resume=True, dead=dead)
    assert told in str(error.value)


def test_two_runs_do_not_write_one_output(tmp_path):
    """The second one is refused with the pid of the first, and leaves the first one's files."""
    first = made(tmp_path)
    first.open()
    second = MapFiles(tmp_path / "out", tmp_path / "out.dead", WORK, resumable=True)
    with pytest.raises(MapError, match=r"another run \(pid \d+\)"):
        second.claim(resume=True)
    second.leave()
    first.store(portion(1, b"r"))
    first.complete()
    first.finish()
    assert (tmp_path / "out").read_bytes() == b"r\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    release(first)


def test_two_runs_do_not_write_one_file_of_dead_letters(tmp_path):
    """Also where their outputs differ: the second is refused, and nothing of the first is touched."""
    first = made(tmp_path)
    first.open()
    first.store(portion(1, b"a", dead=[b"letter"]))
    second = made(tmp_path, output="other")
    with pytest.raises(MapError, match="another run writes its dead letters"):
        second.open()
    second.leave()
    assert (tmp_path / "out.dead").read_bytes() == b"letter\n"
    assert not (tmp_path / "other.map").exists()
    release(first)
    os.close(second._lock)


def test_a_run_does_not_take_the_letters_of_an_earlier_one(tmp_path):
    """A named file with letters is refused, finished or not is the run of them, and nothing of a run is left behind."""
    first = made(tmp_path, dead="letters")
    first.open()
    first.store(portion(1, b"a", dead=[b"letter"]))
    release(first)
    second = made(tmp_path, output="other", dead="letters")
    with pytest.raises(MapError, match="has dead letters of an earlier run") as error:
        second.open()
    second.leave()
    os.close(second._lock)
    assert error.value.code == Exit.USAGE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters", "out.map", "out.part"]
    again = made(tmp_path, dead="letters", resume=True)
    again.open()
    assert (tmp_path / "letters").read_bytes() == b"letter\n"
    release(again)


def test_the_letters_beside_an_output_are_written_anew_with_it(tmp_path):
    """They belong to it: to compute a file once more needs no cleaning."""
    for letter in (b"old", b"new"):
        files = made(tmp_path)
        files.open()
        files.store(portion(1, b"a", dead=[letter]))
        files.complete()
        files.finish()
        release(files)
    assert (tmp_path / "out.dead").read_bytes() == b"new\n"


def test_a_compressed_output_without_results_is_one(tmp_path):
    """What reads .gz files reads an empty one too."""
    files = made(tmp_path, output="out.gz")
    files.open()
    files.store(portion(1))
    files.complete()
    files.finish()
    release(files)
    assert gzip.decompress((tmp_path / "out.gz").read_bytes()) == b""
    assert (tmp_path / "out.gz").stat().st_size


def test_what_no_state_belongs_to_is_not_overwritten(tmp_path):
    """A part without a state may be all that is left of hours of work on a pipe."""
    (tmp_path / "out.part").write_bytes(b"something\n")
    with pytest.raises(MapError, match="left over from a run that cannot be resumed"):
        made(tmp_path, resume=True)


def test_a_part_that_was_cut_is_not_resumed(tmp_path):
    """Where less is there than the state says, a run says so instead of leaving a hole."""
    files = made(tmp_path)
    files.open()
    files.store(portion(1, b"result"))
    release(files)
    (tmp_path / "out.part").write_bytes(b"res")
    again = made(tmp_path, resume=True)
    with pytest.raises(MapError, match="cut or replaced"):
        again.open()
    release(again)


def test_compressed_output_is_cut_between_members(tmp_path):
    """Whatever follows the last stored portion of a .gz goes, and the rest is whole."""
    files = made(tmp_path, output="out.gz")
    files.open()
    files.store(portion(1, b"a", b"b"))
    files.store(portion(2, b"c"))
    release(files)
    with (tmp_path / "out.gz.part").open("ab") as part:
        part.write(b"\x1f\x8b torn")
    again = made(tmp_path, output="out.gz", resume=True)
    again.open()
    again.store(portion(3, b"d", dead=[b"letter"]))
    again.complete()
    again.finish()
    assert gzip.decompress((tmp_path / "out.gz").read_bytes()) == b"a\nb\nc\nd\n"
    assert (tmp_path / "out.dead").read_bytes() == b"letter\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.dead", "out.gz"]
    release(again)


def test_a_pipe_is_not_resumed(tmp_path):
    """An input that cannot be read again leaves no state, and --resume is refused."""
    files = made(tmp_path, resumable=False)
    files.open()
    files.store(portion(1, b"a"))
    files.leave()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.dead", "out.part"]
    release(files)
    with pytest.raises(MapError, match="cannot be resumed"):
        made(tmp_path, resumable=False, resume=True)
