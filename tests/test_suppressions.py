"""Suppressed rules of lint and types: each says why."""

import re
import tokenize
from pathlib import Path

import pytest

pytestmark = pytest.mark.untraced  # slow under it, and other tests show what is covered

ROOT = Path(__file__).parent.parent
SUPPRESSED = re.compile(r"# (noqa|type: ignore)")
EXPLAINED = re.compile(r"# (noqa: [A-Z0-9, ]+ - |type: ignore\[[a-z, -]+\]  # )\S")


def test_every_suppressed_rule_has_its_reason():
    """`# noqa: RULE - reason` and `# type: ignore[rule]  # reason`, on every line that has either."""
    bare = []
    for folder in ("mqworker", "tests", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            with path.open("rb") as file:
                comments = [token for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT]
            bare += [
                f"{path.relative_to(ROOT)}:{comment.start[0]}"
                for comment in comments
                if SUPPRESSED.match(comment.string) and not EXPLAINED.match(comment.string)
            ]
    assert not bare
