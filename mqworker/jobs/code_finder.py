"""Imports a user's code from its copy, as if from the folder that was copied.

Runs in a process that imports one version of the code (Consumer, code check). Python's own path finder stays in charge,
in the order of `sys.path`; for entries below the folder it gets a finder that looks in the copy. A module has the
`__file__` that it would have without the copy, so that it finds its data. Its code objects name the file in the copy:
that is the code that runs, and tools that store something for a source file (caches of compiled functions) must use
that file; `as_in_folder` puts the user's file names into texts. What was not copied (hidden folders, virtual
environments, data) is found in its own place.
"""

import filecmp
import importlib
import os
import sys
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from mqworker.ipc.generation import CodeCopy
from mqworker.jobs.code_copy import ENVIRONMENTS

LOADERS = (
    (ExtensionFileLoader, EXTENSION_SUFFIXES),
    (SourceFileLoader, SOURCE_SUFFIXES),
    (SourcelessFileLoader, BYTECODE_SUFFIXES),
)
_places: list[tuple[str, str]] = []  # (copy, folder) in use in this process; the folder twice if there is no copy
LIBRARIES = ("/site-packages/", "/dist-packages/", "/lib/python3")  # parts of paths that are not the user's own


def use_code(folder: str, copy: CodeCopy | None, state_dir: str) -> tuple[Path, Path | None]:
    """Import the user's code from its copy, if it has one; returns the folder and the copy.

    Raises FileNotFoundError if the copy is gone.
    """
    if copy is None:
        _places.append((os.path.realpath(folder), os.path.abspath(folder)))
        return Path(folder), None
    root, path = copy.root(folder), copy.path(state_dir)
    use_copy(root, path)
    return root, path


def use_copy(folder: Path, copy: Path) -> None:
    """Import what is below `folder` from `copy` from now on; raises FileNotFoundError if there is no copy."""
    if not copy.is_dir():
        raise FileNotFoundError(
            f"the copy of the code in {folder} is gone ({copy}): `mqworker restart` uses the code that is there now"
        )
    folders = tuple(dict.fromkeys((os.path.abspath(folder), os.path.realpath(folder))))
    root = os.path.realpath(copy)

    def finder(entry: str) -> FileFinder:
        for path in (os.path.abspath(entry), os.path.realpath(entry)):
            for base in folders:
                if f"{path}/".startswith(f"{base}/") and os.path.isdir(path):
                    return _below(path, base, root, entry)
        raise ImportError("it is not a folder below the one that was copied")

    _places.append((root, os.path.abspath(folder)))
    sys.path_hooks.insert(0, finder)
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()


def _below(path: str, base: str, root: str, entry: str) -> FileFinder:
    """Return the finder for a folder below the copied one; a new folder gets one too, which finds no code."""
    inside = os.path.relpath(path, base)
    if inside == ".":  # it counts as the user's own, even if it is a virtual environment
        return _Finder(os.path.abspath(entry), root)
    above = [os.path.join(base, *inside.split("/")[: depth + 1]) for depth in range(inside.count("/") + 1)]
    hidden = any(part.startswith(".") for part in inside.split("/"))
    if hidden or any(os.path.exists(os.path.join(each, mark)) for each in above for mark in ENVIRONMENTS):
        raise ImportError("it is never copied")
    return _Finder(os.path.abspath(entry), os.path.normpath(os.path.join(root, inside)))


def as_in_folder(text: str) -> str:
    """Return a traceback with the names of the original files instead of those of the copies."""
    for copy, folder in _places:
        text = text.replace(f"{copy}/", f"{folder}/")
    return text


def name_of(file: str) -> str | None:
    """Return the name of a file of the user's code relative to its folder; None if it is not one."""
    for copy, folder in _places:
        name = file.removeprefix(f"{copy}/")
        if name != file and (copy != folder or not any(part in f"/{name}" for part in LIBRARIES)):
            return name
    return None


class _Finder(FileFinder):
    """Finds modules in one folder of the copy."""

    def __init__(self, original: str, inside: str) -> None:
        super().__init__(inside, *LOADERS)
        self._original = original

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = super().find_spec(fullname, target)
        if spec is None:
            return self._folder_of_data(fullname)
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations[:] = map(self._there, spec.submodule_search_locations)
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _SourceLoader(fullname, spec.loader.path, self._there(spec.loader.path))
        elif isinstance(spec.loader, ExtensionFileLoader):
            spec.loader = _ExtensionLoader(fullname, spec.loader.path, self._there(spec.loader.path))
        if spec.origin is not None:
            spec.origin = self._there(spec.origin)
        return spec

    def _folder_of_data(self, fullname: str) -> ModuleSpec | None:
        """Return a package without code, through which data is read."""
        path = os.path.join(self._original, fullname.rpartition(".")[2])
        suffixes = tuple(suffix for _, each in LOADERS for suffix in each)
        try:
            if any(name.endswith(suffixes) for name in os.listdir(path)):
                return None
        except NotADirectoryError:
            return None
        except OSError:
            if not os.path.isdir(path):
                return None  # an unreadable folder counts as one without code
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = [path]
        return spec

    def _there(self, path: str) -> str:
        """Return the original path of a file or folder of the copy."""
        return os.path.normpath(os.path.join(self._original, os.path.relpath(path, self.path)))


class _SourceLoader(SourceFileLoader):
    def __init__(self, fullname: str, copy: str, path: str) -> None:
        super().__init__(fullname, copy)
        self._original = path

    def get_resource_reader(self, name: str | None = None) -> Any:
        """Read data from the original folder, because the copy has none."""
        from importlib.resources.readers import FileReader  # noqa: PLC0415 - rarely used, and each start would pay

        return FileReader(SourceFileLoader(name or self.name, self._original))

    def get_code(self, fullname: str) -> CodeType | None:
        """Compile the code, or read its bytecode: a copy is never edited, so the bytecode cannot be outdated."""
        before, sys.dont_write_bytecode = sys.dont_write_bytecode, False
        try:
            return super().get_code(fullname)
        finally:
            sys.dont_write_bytecode = before


class _ExtensionLoader(ExtensionFileLoader):
    def __init__(self, fullname: str, copy: str, path: str) -> None:
        super().__init__(fullname, path)
        self._copy = copy

    def create_module(self, spec: ModuleSpec) -> Any:
        """Load the original file, beside which are the libraries that it needs, unless it has changed."""
        try:
            unchanged = filecmp.cmp(self.path, self._copy, shallow=False)
        except OSError:
            unchanged = False
        return super().create_module(ModuleSpec(spec.name, self, origin=self.path if unchanged else self._copy))
