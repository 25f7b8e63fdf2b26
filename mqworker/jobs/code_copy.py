"""Copies of a user's code in the state folder: Consumers that start later run the code that was checked.

Runs in the code check, which copies before it imports anything, and then imports from the copy. A copy holds what
Python can import from the folder: modules and extension modules, but no data, hidden files, virtual environments or
copies. Its name is a digest of all names and contents, so equal code has one copy, whichever check makes it. A copy
appears whole or not at all, and its code is never changed; a damaged copy is made again. Files that cannot be read are
left out, because they could not be imported either. Checks that run at the same time make copies one after another.
Raises `TooMuchCode`, and OSError if the copy cannot be written or its folder is not private.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from hashlib import sha256
from importlib.machinery import all_suffixes
from pathlib import Path

MOST_FILES = 5_000
MOST_BYTES = 200 << 20
MOST_ENTRIES = 100_000  # files and folders of any kind that are examined
LONGEST = 5.0  # seconds for listing them
UNUSED = 3600.0  # seconds for which an unneeded copy is kept: old Consumers may still import from it
MARKER = ".copies-of-code"  # in every folder with copies, so that these do not count as code of the folder around it
ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")  # what marks a virtual environment

_SUFFIXES = tuple(all_suffixes())


class TooMuchCode(Exception):  # noqa: N818 - the name says what the folder has
    """The folder has more code, or more files of any kind, than is allowed."""


def copy_code(folder: Path, store: Path) -> str:
    """Copy the code of `folder` to `store`/DIGEST, unless it is there already; returns the digest."""
    with _locked(store):
        if _is_whole(store, digest := digest_of(folder)):
            os.utime(store / digest)
            return digest
        new = store / f"new-{secrets.token_hex(8)}"
        try:
            new.mkdir()
            digest = _copy(folder, new)  # the folder may have changed: its digest now
            if not _is_whole(store, digest):
                shutil.rmtree(store / digest, ignore_errors=True)
                new.rename(store / digest)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return digest


def digest_of(folder: Path) -> str:
    """Return the digest of the code in the folder as it is now."""
    digest = sha256()
    for name, content in _code(folder):
        digest.update(_record(name, content))
    return digest.hexdigest()


def remove_unneeded(store: Path, needed: frozenset[str]) -> None:
    """Remove copies that have been unneeded for an hour, and what a check left that died making one; never raises."""
    with contextlib.suppress(OSError), _locked(store):
        for path in store.iterdir():
            with contextlib.suppress(OSError):
                if path.name in needed:
                    os.utime(path)
                elif path.name != MARKER and time.time() - path.stat().st_mtime > UNUSED:
                    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(store: Path) -> Iterator[None]:
    """Make the folder of copies if need be, and lock it."""
    store.mkdir(mode=0o700, exist_ok=True)
    status = store.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(f"{store} is not a folder that only this user can write to")
    fd = os.open(store / MARKER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _is_whole(store: Path, digest: str) -> bool:
    try:
        return (store / digest).is_dir() and digest_of(store / digest) == digest
    except (OSError, TooMuchCode):
        return False


def _copy(folder: Path, new: Path) -> str:
    digest = sha256()
    for name, content in _code(folder):
        digest.update(_record(name, content))
        target = new / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return digest.hexdigest()


def _record(name: str, content: bytes) -> bytes:
    """Return the bytes that the digest covers for one file."""
    raw = os.fsencode(name)
    return b"%d %d %b" % (len(raw), len(content), raw) + content


def _code(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (path in the folder, content) of each readable file with code."""
    for name, path in _files(folder):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        yield name, content


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (path in the folder, path) of each file with code, sorted by name."""
    files, size, seen, spent = 0, 0, 0, 0.0
    todo: list[tuple[str, Path, frozenset[tuple[int, int]]]] = [("", folder, frozenset())]
    while todo:  # each entry has the folders above it, to detect loops of links
        prefix, path, above = todo.pop()
        began = time.monotonic()
        here, entries = _list(path)
        spent += time.monotonic() - began
        names = {entry.name for entry in entries}
        if here in above or MARKER in names or (prefix and not names.isdisjoint(ENVIRONMENTS)):
            continue
        folders = []
        for entry in entries:
            seen += 1
            if entry.name.startswith(".") or entry.name == "__pycache__":
                continue
            with contextlib.suppress(OSError):
                if entry.is_dir():
                    folders.append((f"{prefix}{entry.name}/", path / entry.name, above | {here}))
                elif entry.is_file() and _is_code(entry.name):
                    files, size = files + 1, size + entry.stat().st_size
                    if files > MOST_FILES or size > MOST_BYTES:
                        raise TooMuchCode(
                            f"{folder} has more than {MOST_FILES:,} files or {MOST_BYTES >> 20} MiB of code"
                            f" (for example in {path})"
                        )
                    yield prefix + entry.name, Path(entry.path)
        if seen > MOST_ENTRIES or spent > LONGEST:
            raise TooMuchCode(f"{folder} has too many files of any kind to look through (for example in {path})")
        todo += reversed(folders)


def _list(folder: Path) -> tuple[tuple[int, int], list["os.DirEntry[str]"]]:
    """Return the identity of a folder and its entries, which are none if it cannot be read."""
    try:
        status = folder.stat()
        return (status.st_dev, status.st_ino), sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return (0, 0), []


def _is_code(name: str) -> bool:
    return name.endswith(_SUFFIXES) or ".so." in name
