"""Copies of mqworker's code to measure: the working tree as it is now, and a commit.

Copies, so that an edit during a measurement changes nothing and both lie alike: in a temporary folder, compiled. Their
dependencies are those of this virtual environment, for both.
"""

import compileall
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


class NoSuchCommitError(Exception):
    """Git does not know the name, or the commit has no mqworker."""


def present(folder: Path) -> Path:
    """Copy the working tree's package, uncommitted changes included; returns `folder`."""
    shutil.copytree(ROOT / "mqworker", folder / "mqworker", ignore=shutil.ignore_patterns("__pycache__"))
    return _compiled(folder)


def commit(ref: str) -> str:
    """Return the hash of the commit that a branch, tag or hash names; NoSuchCommitError if there is none."""
    return _git("rev-parse", "--verify", f"{ref}^{{commit}}", failure=f"no commit '{ref}'").decode().strip()


def checkout(number: str, folder: Path) -> Path:
    """Write the package of a commit; returns `folder`."""
    packed = _git("archive", number, "mqworker", failure=f"commit {number} has no mqworker")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)
    return _compiled(folder)


def _git(*arguments: str, failure: str) -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    if done.returncode:
        raise NoSuchCommitError(f"{failure}: {done.stderr.decode(errors='replace').strip() or 'git said nothing'}")
    return done.stdout


def _compiled(folder: Path) -> Path:
    compileall.compile_dir(folder, quiet=1)
    return folder
