"""A folder of user code that can be imported, and is forgotten afterwards."""

import sys
import textwrap

import pytest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a function that writes modules into a new folder: `folder(primes="...") -> Path`."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(**modules):
        for name, source in modules.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(source))
        return tmp_path

    yield write
    for name in set(sys.modules) - before:
        module = sys.modules[name]
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)) or not hasattr(module, "__file__"):
            del sys.modules[name]
