"""The documents: everything that they name exists."""

import ast
import re
from pathlib import Path

import pytest

from mqworker.cli import VERBS
from mqworker.exits import Exit
from mqworker.http.app import ROUTES

pytestmark = pytest.mark.untraced  # slow under it, and other tests show what is covered

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def names(path: Path) -> set[str]:
    """Return the functions and classes that a test file defines."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, definitions)}


@pages
def test_every_test_that_is_named_exists(page):
    """A page names no test that was removed or renamed."""
    for path, name in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", page.read_text()):
        assert (ROOT / path).is_file(), path
        assert not name or name in names(ROOT / path), f"{path}::{name}"


@pages
def test_every_relative_link_leads_somewhere(page):
    """Links inside the repository have a target."""
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert re.match(r"https?:", target) or (page.parent / target).exists(), target


@pages
def test_every_script_that_is_named_exists(page):
    """`scripts/NAME` is a command of the repository."""
    for name in re.findall(r"`scripts/([\w-]+)", page.read_text()):
        assert (ROOT / "scripts" / name).is_file(), name


def test_the_faults_are_all_there():
    """The page has rows 1 to 83 and S1 to S29, each once."""
    found = re.findall(r"^\| (S?\d+) \|", (ROOT / "docs/faults.md").read_text(), re.MULTILINE)
    assert found == [*map(str, range(1, 84)), *(f"S{number}" for number in range(1, 30))]


def test_the_exit_codes_are_those_of_the_program():
    """The table in operations.md has exactly the numbers of mqworker/exits.py."""
    table = (ROOT / "docs/operations.md").read_text().partition("| exit code |")[2].partition("\n\n")[0]
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == sorted(Exit)


@pages
def test_every_verb_that_is_typed_exists(page):
    """Every `mqworker VERB` in text and examples is a verb of the command line."""
    typed = set(
        re.findall(r"(?:^|[`/; ])mqworker ([a-z]+(?:-[a-z]+)*)\b", "\n".join(code(page.read_text())), re.MULTILINE)
    )
    assert typed <= VERBS.keys(), typed - VERBS.keys()


def code(text: str) -> list[str]:
    """Return all code of a page: shell blocks without their comments, and code spans."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(r"#.*", "", block) for block in blocks] + [f"`{span}`" for span in re.findall(r"`([^`\n]+)`", rest)]


@pages
def test_every_path_of_the_api_exists(page):
    """Every path in an example or in the text is in the route table."""
    known = [re.sub(r"<[^>]+>", "[^/]+", route.path) for route in ROUTES]
    for path in re.findall(r"(?:localhost:5002|`(?:[A-Z]+ )?)(/[a-z][\w/.{}-]*)", "\n".join(code(page.read_text()))):
        assert any(re.fullmatch(pattern, path) for pattern in known), path


def test_the_readme_is_short():
    """The README has fewer than 120 lines."""
    assert len((ROOT / "README.md").read_text().splitlines()) < 120
