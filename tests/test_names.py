"""The package's names: one name is one thing."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import mqworker

pytestmark = pytest.mark.untraced  # slow under it, and other tests show what is covered

PACKAGE = Path(mqworker.__file__).parent


def test_no_two_public_classes_share_a_name():
    """A public class name is defined in one module of the package only."""
    places = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
