"""Copies of a user's code: what is in them, when they are made, and what imports from one see."""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from mqworker.jobs import code_copy
from mqworker.jobs.code_copy import TooMuchCode, copy_code, remove_unneeded


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A folder with code of many kinds."""
    root = tmp_path / "app"
    for name, text in {
        "main.py": "import pkg.part, space.deep.leaf\nKIND = 'old'\n",
        "pkg/__init__.py": "",
        "pkg/part.py": "import importlib.resources\nDATA = importlib.resources.files('pkg') / 'data.txt'\n",
        "pkg/data.txt": "data",
        "space/deep/leaf.py": "NUMBER = 1\n",  # a package without __init__.py
        ".hidden/secret.py": "",
        "venv/pyvenv.cfg": "",
        "venv/lib/module.py": "",
        "pkg/__pycache__/part.cpython-311.pyc": "",
        "native.so": "not really",
        "libnative.so.1": "nor this",
        ".mqworker/desired.json": "{}",
        "README": "text",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def made(store: Path, digest: str) -> list[str]:
    """Return the names of the files in a copy."""
    return sorted(str(path.relative_to(store / digest)) for path in (store / digest).rglob("*") if path.is_file())


def test_a_copy_has_what_can_be_imported(app, tmp_path):
    """Modules and shared libraries; no data, nothing hidden, no virtual environment."""
    store = tmp_path / "state/code"
    store.parent.mkdir()
    digest = copy_code(app, store)
    names = ["libnative.so.1", "main.py", "native.so", "pkg/__init__.py", "pkg/part.py", "space/deep/leaf.py"]
    assert made(store, digest) == names
    assert [path.name for path in store.iterdir()] == [digest]


def test_the_digest_is_that_of_names_and_contents(app, tmp_path):
    """Equal code has one copy; a changed, renamed, added or removed module makes another; data does not."""
    store = tmp_path / "code"
    digests = [copy_code(app, store)]
    (app / "README").write_text("other")
    assert copy_code(app, store) == digests[0]
    for change in (
        lambda: (app / "main.py").write_text("KIND = 'new'\n"),
        lambda: (app / "main.py").rename(app / "other.py"),
        (app / "empty.py").touch,
        (app / "native.so").unlink,
    ):
        change()
        digests.append(copy_code(app, store))
    assert len(set(digests)) == 5
    assert {path.name for path in store.iterdir()} == set(digests)


def test_a_damaged_copy_is_made_again(app, tmp_path):
    """What a power failure left half written is not trusted."""
    store = tmp_path / "code"
    digest = copy_code(app, store)
    (store / digest / "main.py").write_text("")
    (store / digest / "pkg/part.py").unlink()
    assert copy_code(app, store) == digest
    assert (store / digest / "main.py").read_bytes() == (app / "main.py").read_bytes()
    assert "pkg/part.py" in made(store, digest)


def test_links_are_followed_and_loops_end(app, tmp_path):
    """A linked folder outside belongs to the code as it can be imported; one that leads back is skipped."""
    (tmp_path / "common").mkdir()
    (tmp_path / "common/shared.py").touch()
    (app / "common").symlink_to(tmp_path / "common")
    (app / "pkg/again").symlink_to(app)
    (app / "broken.py").symlink_to(tmp_path / "nowhere")
    store = tmp_path / "code"
    names = made(store, copy_code(app, store))
    assert "common/shared.py" in names
    assert not [name for name in names if "again" in name or "broken" in name]


def test_a_state_folder_inside_the_code_is_no_part_of_it(app):
    """Whatever it is called: the copies are in there."""
    store = app / "state/code"
    store.mkdir(parents=True)
    first = copy_code(app, store)
    assert copy_code(app, store) == first


@pytest.mark.parametrize(("limit", "value"), [("MOST_FILES", 3), ("MOST_BYTES", 20)])
def test_too_much_code_is_refused(app, tmp_path, monkeypatch, limit, value):
    """The error names the folder and where it has so much; nothing is left."""
    monkeypatch.setattr(code_copy, limit, value)
    with pytest.raises(TooMuchCode, match="app has more than"):
        copy_code(app, tmp_path / "code")
    assert not (tmp_path / "code").exists()


def test_copies_that_nobody_needs_are_removed_after_an_hour(app, tmp_path):
    """Needed ones stay, and so do those that are just being made."""
    store = tmp_path / "code"
    needed = copy_code(app, store)
    (app / "main.py").write_text("")
    old = copy_code(app, store)
    (app / "main.py").write_text("1")
    young = copy_code(app, store)
    (store / "new-x").mkdir()
    an_hour_ago = time.time() - code_copy.UNUSED - 1
    for name in (needed, old, "new-x"):
        os.utime(store / name, (an_hour_ago, an_hour_ago))
    remove_unneeded(store, frozenset([needed]))
    assert {path.name for path in store.iterdir()} == {needed, young}
    remove_unneeded(tmp_path / "nowhere", frozenset())


USE = """
import sys, traceback
from pathlib import Path
from mqworker.jobs.code_finder import use_copy
folder, copy = map(Path, sys.argv[1:])
use_copy(folder, copy)
sys.path.insert(0, str(folder))
"""


def use(app: Path, copy: Path, code: str) -> str:
    """Run code in a process that imports from a copy; return what it prints."""
    command = [sys.executable, "-c", USE + code, str(app), str(copy)]
    return subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ}).stdout


@pytest.fixture
def edited(app, tmp_path) -> Path:
    """The copy of the folder as it was before all its modules were emptied."""
    copy = tmp_path / "code" / copy_code(app, tmp_path / "code")
    for path in app.rglob("*.py"):
        path.write_text("\n\n\n\nraise RuntimeError('edited')\n")
    return copy


def test_imports_come_from_the_copy_as_if_from_the_folder(app, edited):
    """Modules have their files' names in the folder, find their data there, and their source is what runs."""
    told = use(
        app,
        edited,
        """
import main, inspect, pkgutil, json
print(main.KIND, main.__file__, main.pkg.__file__, *main.pkg.__path__, *main.space.__path__, sep="\\n")
print(main.pkg.part.DATA.read_text(), main.space.deep.leaf.NUMBER)
print(inspect.getsource(main.pkg.part).splitlines()[0], [each.name for each in pkgutil.iter_modules(main.pkg.__path__)])
""",
    )
    assert told.splitlines() == [
        "old",
        f"{app}/main.py",
        f"{app}/pkg/__init__.py",
        f"{app}/pkg",
        f"{app}/space",
        "data 1",
        "import importlib.resources ['part']",
    ]


def test_a_traceback_shows_the_lines_that_run(app, tmp_path):
    """Not those that are in the file by now."""
    (app / "main.py").write_text("def fail():\n    raise ValueError('x')  # this line\n")
    copy = tmp_path / "code" / copy_code(app, tmp_path / "code")
    (app / "main.py").write_text("\n# another line\n")
    told = use(app, copy, "import main\ntry:\n    main.fail()\nexcept ValueError:\n    print(traceback.format_exc())\n")
    assert f'{app}/main.py", line 2, in fail' in told
    assert "# this line" in told


def test_modules_that_came_later_are_not_found(app, edited):
    """They belong to another generation; what was not copied is imported from where it is."""
    (app / "later.py").write_text("")
    (app / ".hidden/secret.py").write_text("WHERE = __file__")
    told = use(
        app,
        edited,
        """
try:
    import later
except ModuleNotFoundError as error:
    print(error)
sys.path.append(str(folder / ".hidden"))
import secret
print(secret.WHERE)
""",
    )
    assert told.splitlines() == ["No module named 'later'", f"{app}/.hidden/secret.py"]


def test_an_extension_module_runs_from_the_copy(app, tmp_path):
    """With the name of its file in the folder, from which it can be gone."""
    (native,) = Path(sysconfig.get_config_var("DESTSHARED")).glob("_lsprof.*.so")
    (app / "native.so").unlink()
    shutil.copy(native, app)
    copy = tmp_path / "code" / copy_code(app, tmp_path / "code")
    (app / native.name).unlink()
    told = use(app, copy, "import _lsprof; print(_lsprof.__file__, _lsprof.Profiler)")
    assert told.splitlines() == [f"{app}/{native.name} <class '_lsprof.Profiler'>"]
