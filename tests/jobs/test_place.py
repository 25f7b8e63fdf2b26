"""The place of a failure in the code, by which failures are grouped."""

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.jobs import code_finder, place
from mqworker.jobs.place import LIMIT, LONGEST, place_in, place_of

CODE = """
import json
def inner(text):
    return json.loads(text)
def handle(body):
    return inner(body)
"""


@pytest.fixture
def user(tmp_path, monkeypatch):
    """Return a folder that is that of the user's code in this process."""
    monkeypatch.setattr(code_finder, "_places", [])
    code_finder.use_code(str(tmp_path), None, "")
    return tmp_path


def raised(path, call="handle('{')", source=CODE):
    """Return what the user's code raises, imported from this file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    names = {}
    exec(compile(source, str(path), "exec"), names)
    try:
        exec(call, names)
    except BaseException as error:  # noqa: BLE001 - whatever it raises
        return error
    raise AssertionError("it raised nothing")


def test_the_innermost_frame_of_the_users_code_is_the_place(user):
    """Not the library below it, not the caller above; the file is named below the folder; the text says the same."""
    error = raised(user / "deep" / "jobs.py")
    assert place_of(error.__traceback__) == "deep/jobs.py:4 in inner"
    text = "".join(traceback.format_exception(error))
    assert place_in(text) == "deep/jobs.py:4 in inner"


def test_a_copy_of_the_code_and_its_folder_are_one_place(user, tmp_path):
    """A Consumer imports from the copy, an old dead letter names the folder, faulthandler names the copy."""
    copy = tmp_path / "state" / "code" / "ab12"
    error = raised(copy / "jobs.py")
    code_finder._places.insert(0, (str(copy), str(user)))
    assert place_of(error.__traceback__) == "jobs.py:4 in inner"
    code_finder._places.clear()
    text = "".join(traceback.format_exception(error))
    assert place_in(text, (str(copy), str(user))) == "jobs.py:4 in inner"


def test_code_of_a_library_counts_where_there_is_none_of_the_users(user):
    """So does a virtual environment in the user's folder; without any frame but ours there is no place."""
    error = raised(user / ".venv/lib/python3.11/site-packages/solver/core.py", source=CODE.replace("json.loads", "int"))
    assert place_of(error.__traceback__.tb_next) == "solver/core.py:4 in inner"
    assert place_of(None) == place_in("") == place_in("Traceback (most recent call last):\n  nonsense") == ""


def test_an_interruption_has_no_line(user):
    """A time limit passes at any line of the handler, and is one fault all the same."""
    assert place_of(raised(user / "jobs.py").__traceback__, interrupted=True) == "jobs.py in inner"


CRASH = """Fatal Python error: Segmentation fault

Thread 0x00007f21 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  File "/home/u/other.py", line 9 in idle

Current thread 0x00007f22 (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 512 in string_at
  File "/home/u/jobs.py", line 7 in handle
  File "/home/u/jobs.py", line 70 in outer

Thread 0x00007f23 (most recent call first):
  File "/home/u/third.py", line 1 in idle
"""


def test_of_a_crash_the_thread_counts_that_crashed():
    """faulthandler writes the innermost frame first, and other threads besides."""
    assert place_in(CRASH, ["/home/u/"]) == "jobs.py:7 in handle"


def test_a_recursion_without_end_has_a_place(user):
    """Its traceback has as many frames as Python allows."""
    error = raised(user / "jobs.py", "f(0)", "def f(n):\n    return f(n + 1)\n")
    assert place_of(error.__traceback__) == "jobs.py:2 in f"


@given(st.text(), st.lists(st.text(min_size=1), max_size=2))
def test_any_text_has_a_place_or_none(text, folders):
    """Whoever can publish can write a traceback: the place is short, printable and valid text all the same."""
    for each in (text, f'  File "{text}", line 3, in {text}\n', CRASH.replace("jobs.py", text)):
        place = place_in(each, folders)
        assert len(place) <= LIMIT
        assert place.isprintable()
        place.encode()


def test_of_a_huge_text_only_the_innermost_frames_are_read(monkeypatch):
    """Anybody may have written it; the first one that fits is the place, and no other is looked at."""
    frame = '  File "/a", line 1, in f\n'
    looked = []
    monkeypatch.setattr(place, "_own", lambda file, _folders: looked.append(file))
    assert place_in(frame * 4_600 + '  File "/srv/b.py", line 2, in g\n') == "b.py:2 in g"
    assert len(looked) < LONGEST / len(frame)
    monkeypatch.undo()
    stack = f'Current thread 0x1 (most recent call first):\n  File "/srv/b.py", line 2 in g\n{frame * 4_600}'
    assert place_in(stack) == "b.py:2 in g"
