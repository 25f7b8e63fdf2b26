"""Copies of a user's code: what is in them, when they are made, and what imports from one see."""

import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from mqworker.jobs import code_copy
from mqworker.jobs.code_copy import MARKER, TooMuchCode, copy_code, remove_unneeded
from mqworker.jobs.code_finder import use_copy


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A folder with code of many kinds."""
    root = tmp_path / "app"
    for name, text in {
        "main.py": "import pkg.part, space.deep.leaf\nKIND = 'old'\ndef kind(): return KIND\n",
        "pkg/__init__.py": "",
        "pkg/part.py": "import importlib.resources\nDATA = importlib.resources.files('pkg') / 'data.txt'\n",
        "pkg/data.txt": "data",
        "pkg/tables/t.csv": "1,2",  # a package without code
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


def copied(store: Path) -> set[str]:
    """Return the names of all copies."""
    return {path.name for path in store.iterdir()} - {MARKER}


def test_a_copy_has_what_can_be_imported(app, tmp_path):
    """Modules and shared libraries; no data, nothing hidden, no virtual environment."""
    store = tmp_path / "state/code"
    store.parent.mkdir()
    digest = copy_code(app, store)
    names = ["libnative.so.1", "main.py", "native.so", "pkg/__init__.py", "pkg/part.py", "space/deep/leaf.py"]
    assert made(store, digest) == names
    assert copied(store) == {digest}


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
    assert copied(store) == set(digests)


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


def test_copies_inside_the_code_are_no_part_of_it(app):
    """Wherever the state folder is, also those of another service; the code beside them is."""
    for store in (app / "state/code", app / "other/code", app / "code"):
        store.parent.mkdir(exist_ok=True)
        first = copy_code(app, store)
        assert copy_code(app, store) == first
        assert "main.py" in made(store, first)
        assert not [name for name in made(store, first) if name.count("main.py") > 1 or "code/" in name]


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("MOST_FILES", 3, "app has more than 3 files"),
        ("MOST_BYTES", 20, "app has more than"),
        ("MOST_ENTRIES", 5, "app has too many files of any kind"),
        ("LONGEST", -1.0, "app has too many files of any kind"),
    ],
)
def test_too_much_is_refused(app, tmp_path, monkeypatch, limit, value, words):
    """Too much code, and too much of anything to look through: the error names the folder; nothing is left."""
    monkeypatch.setattr(code_copy, limit, value)
    with pytest.raises(TooMuchCode, match=words):
        copy_code(app, tmp_path / "code")
    assert copied(tmp_path / "code") == set()


def test_what_cannot_be_read_is_left_out(app, tmp_path):
    """Links that lead to themselves; a name that is not UTF-8 is one like any other."""
    (app / "self.py").symlink_to(app / "self.py")
    (app / "itself").symlink_to(app / "itself")
    (app / os.fsdecode(b"\xff.py")).touch()
    store = tmp_path / "code"
    names = made(store, copy_code(app, store))
    assert "main.py" in names
    assert os.fsdecode(b"\xff.py") in names
    assert "self.py" not in names


def test_only_a_private_folder_is_used(app, tmp_path):
    """A link, or a folder that others can write to, could be given other code."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    for store in (tmp_path / "link", tmp_path / "open"):
        with pytest.raises(PermissionError, match="only this user"):
            copy_code(app, store)


COPY = """
import sys
from pathlib import Path
from mqworker.jobs.code_copy import copy_code
from mqworker.jobs.code_finder import use_copy
app, store = map(Path, sys.argv[1:])
use_copy(app, store / copy_code(app, store))
sys.path.insert(0, str(app))
for number in range(200):
    __import__(f"module_{number}")
"""


def test_copies_that_are_made_at_the_same_time_are_one(tmp_path):
    """Each of several processes imports from a whole copy, whoever made it."""
    app = tmp_path / "app"
    app.mkdir()
    for number in range(200):
        (app / f"module_{number}.py").write_text("x = 1\n" * 50)
    for turn in range(3):
        command = [sys.executable, "-c", COPY, str(app), str(tmp_path / f"code-{turn}")]
        both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
        assert [process.communicate()[1] for process in both] == [""] * 3
        assert len(copied(tmp_path / f"code-{turn}")) == 1


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
    assert copied(store) == {needed, young}
    assert time.time() - (store / needed).stat().st_mtime < 600, "it stays for an hour once nobody needs it"
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
    """Modules have their files' names in the folder and find their data there; the source of functions is what runs."""
    told = use(
        app,
        edited,
        """
import main, inspect, pkgutil, importlib.resources
print(main.KIND, main.__file__, main.pkg.__file__, *main.pkg.__path__, *main.space.__path__, sep="\\n")
print(main.pkg.part.DATA.read_text(), main.space.deep.leaf.NUMBER)
print(inspect.getsource(main.kind), [each.name for each in pkgutil.iter_modules(main.pkg.__path__)])
print(importlib.resources.files("pkg.tables").joinpath("t.csv").read_text())
""",
    )
    assert told.splitlines() == [
        "old",
        f"{app}/main.py",
        f"{app}/pkg/__init__.py",
        f"{app}/pkg",
        f"{app}/space",
        "data 1",
        "def kind(): return KIND",
        " ['part']",
        "1,2",
    ]


def test_a_failure_shows_the_lines_that_run_with_the_name_of_their_file(app, tmp_path):
    """Not the lines that are in the file by now; what tools keep by a source file they keep by the copy's."""
    (app / "main.py").write_text("def fail():\n    raise ValueError('x')  # this line\n")
    copy = tmp_path / "code" / copy_code(app, tmp_path / "code")
    (app / "main.py").write_text("\n# another line\n")
    told = use(
        app,
        copy,
        """
import main
from mqworker.jobs.failures import describe
try:
    main.fail()
except ValueError as error:
    print(describe(error).traceback)
print(main.fail.__code__.co_filename)
""",
    )
    assert f'{app}/main.py", line 2, in fail' in told
    assert "# this line" in told
    assert told.splitlines()[-1] == f"{copy}/main.py"


def test_bytecode_is_kept_beside_the_copy_and_nowhere_else(app, edited):
    """A process that starts later does not compile; a copy with bytecode is still the same code."""
    for path in app.rglob("__pycache__"):
        shutil.rmtree(path)
    use(app, edited, "sys.dont_write_bytecode = True\nimport main\nassert sys.dont_write_bytecode\n")
    assert [path.name for path in edited.rglob("main*.pyc")]
    assert not list(app.rglob("*.pyc"))
    assert code_copy.digest_of(edited) == edited.name


def test_linked_folders_and_relative_entries_are_of_the_copy(app, tmp_path):
    """However an entry of `sys.path` leads into the folder; a module without source is one too."""
    (tmp_path / "common").mkdir()
    (tmp_path / "common/__init__.py").write_text("V = 1")
    (tmp_path / "common/shared.py").write_text("V = 1")
    (app / "common").symlink_to(tmp_path / "common")
    (app / "lib").mkdir()
    (app / "lib/inner.py").write_text("V = 1")
    py_compile.compile(str(app / "lib/inner.py"), str(app / "lib/bare.pyc"))
    copy = tmp_path / "code" / copy_code(app, tmp_path / "code")
    for path in (tmp_path / "common/__init__.py", tmp_path / "common/shared.py", app / "lib/inner.py"):
        path.write_text("V = 2")
    told = use(
        app,
        copy,
        """
import os
os.chdir(folder)
(folder / "loop").symlink_to(folder / "loop")
sys.path[:0] = ["lib", str(folder / "loop")]
import common.shared, inner, bare
print(common.V, common.shared.V, inner.V, bare.V, common.shared.__file__, inner.__file__)
""",
    )
    assert told.split() == ["1", "1", "1", "1", f"{app}/common/shared.py", f"{app}/lib/inner.py"]


@pytest.mark.skipif(shutil.which("setpriv") is None or os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_that_cannot_be_read_hides_no_package(app, tmp_path):
    """A volume of another program, named as an installed package: Python finds the package behind it."""
    (app / "json").mkdir(mode=0o700)
    os.chown(app / "json", 54321, 54321)
    copy = tmp_path / "code" / copy_code(app, tmp_path / "code")
    code = "sys.modules.pop('json', None)\nimport json\nprint(json.__file__)\nlist((folder / 'json').iterdir())"
    bare = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable]
    done = subprocess.run([*bare, "-c", USE + code, str(app), str(copy)], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("json/__init__.py"), done.stderr
    assert str(app) not in done.stdout
    assert "PermissionError" in done.stderr, "the folder cannot be read there"


def test_a_folder_that_is_a_virtual_environment_itself_is_copied_and_used(tmp_path):
    """`python -m venv .` beside the configuration: its own modules are the user's, what is installed is not."""
    app = tmp_path / "app"
    (app / "lib/python3/site-packages").mkdir(parents=True)
    (app / "pyvenv.cfg").touch()
    (app / "main.py").write_text("V = 1")
    copy = tmp_path / "code" / copy_code(app, tmp_path / "code")
    (app / "main.py").write_text("V = 2")
    assert use(app, copy, "import main; print(main.V)").strip() == "1"


def test_a_copy_that_is_gone_is_an_error(app, tmp_path):
    """Other code must not run in its place."""
    with pytest.raises(FileNotFoundError, match="is gone"):
        use_copy(app, tmp_path / "nothing")


def test_modules_that_came_later_are_not_found(app, edited):
    """They belong to another generation; what was not copied is imported from where it is."""
    (app / "later.py").write_text("")
    (app / ".hidden/secret.py").write_text("WHERE = __file__")
    for folder in ("new", "newer/inside"):
        (app / folder).mkdir(parents=True)
        (app / folder / "fresh.py").touch()
    told = use(
        app,
        edited,
        """
try:
    import later
except ModuleNotFoundError as error:
    print(error)
sys.path[1:1] = [str(folder / ".hidden"), str(folder / "new")]
import secret
print(secret.WHERE)
for name in ("fresh", "newer.inside", "new.fresh"):
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        print(error)
""",
    )
    assert told.splitlines() == [
        "No module named 'later'",
        f"{app}/.hidden/secret.py",
        "No module named 'fresh'",
        "No module named 'newer.inside'",
        "No module named 'new'",
    ]


def test_an_extension_module_runs_from_the_copy(app, tmp_path):
    """With the name of its file in the folder, from which it can be gone."""
    (native,) = Path(sysconfig.get_config_var("DESTSHARED")).glob("_lsprof.*.so")
    (app / "native.so").unlink()
    shutil.copy(native, app)
    copy = tmp_path / "code" / copy_code(app, tmp_path / "code")
    (app / native.name).unlink()
    told = use(app, copy, "import _lsprof; print(_lsprof.__file__, _lsprof.Profiler)")
    assert told.splitlines() == [f"{app}/{native.name} <class '_lsprof.Profiler'>"]
