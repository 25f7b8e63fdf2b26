"""Copies of a user's code in the state folder: Consumers that start later run the code that was checked.

Runs in the code check, which copies before it imports anything, and then imports from the copy. A copy holds what
Python can import from the folder: modules and extension modules; no data, nothing hidden, no virtual environment. Its
name is a digest of all names and contents, so equal code has one copy, whoever makes it. A copy appears whole or not at
all, and is never changed; one that is damaged is made again. Raises `TooMuchCode`, and OSError with the file's name.
"""

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from hashlib import sha256
from importlib.machinery import all_suffixes
from pathlib import Path

MOST_FILES = 5_000
MOST_BYTES = 200 << 20
UNUSED = 3600.0  # seconds for which a copy stays that nobody names: its stage may just be about to
NEW = "new-"  # the beginning of the name of a copy that is not whole yet

_SUFFIXES = tuple(all_suffixes())


class TooMuchCode(Exception):  # noqa: N818 - it names what the folder has
    """The folder has more code than is copied."""


def copy_code(folder: Path, store: Path) -> str:
    """Copy the code of `folder` to `store`/DIGEST, unless it is there already; returns the digest."""
    code = _read(folder, store.parent)
    digest = _digest(code)
    place = store / digest
    if place.is_dir() and _digest(_read(place)) == digest:
        return digest
    store.mkdir(mode=0o700, exist_ok=True)
    new = store / f"{NEW}{secrets.token_hex(8)}"
    try:
        for name, content in code.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        new.mkdir(exist_ok=True)  # for a folder without code
        shutil.rmtree(place, ignore_errors=True)
        with contextlib.suppress(FileExistsError):
            new.rename(place)  # fails if another check has made the same copy meanwhile
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return digest


def remove_unneeded(store: Path, needed: frozenset[str]) -> None:
    """Remove copies that nobody needs, and what was left by whoever died while making one; never raises."""
    with contextlib.suppress(OSError):
        for path in store.iterdir():
            if path.name not in needed and time.time() - path.stat().st_mtime > UNUSED:
                shutil.rmtree(path, ignore_errors=True)


def _read(folder: Path, but: Path | None = None) -> dict[str, bytes]:
    """Return the content of each file with code, by its path in the folder; without what is in the folder `but`."""
    code: dict[str, bytes] = {}
    size = 0
    for name, path in _files(folder, "", but, ()):
        size += path.stat().st_size
        if len(code) == MOST_FILES or size > MOST_BYTES:
            raise TooMuchCode(
                f"{folder} has more than {MOST_FILES:,} files or {MOST_BYTES >> 20} MiB of code"
                f" (for example in {path.parent})"
            )
        code[name] = path.read_bytes()
    return code


def _files(
    folder: Path, prefix: str, but: Path | None, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, Path]]:
    """Yield (path in the root folder, path) in a fixed order; `above`: the folders that lead here, against loops."""
    status = folder.stat()
    here = status.st_dev, status.st_ino
    if here in above or (but is not None and but.exists() and folder.samefile(but)):
        return
    if (folder / "pyvenv.cfg").exists():
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        if entry.is_dir():
            yield from _files(Path(entry.path), f"{prefix}{entry.name}/", but, (*above, here))
        elif entry.is_file() and (entry.name.endswith(_SUFFIXES) or ".so." in entry.name):
            yield prefix + entry.name, Path(entry.path)


def _digest(code: dict[str, bytes]) -> str:
    digest = sha256()
    for name, content in code.items():
        digest.update(b"%d %d " % (len(os.fsencode(name)), len(content)))
        digest.update(os.fsencode(name))
        digest.update(content)
    return digest.hexdigest()
