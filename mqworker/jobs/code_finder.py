"""Imports of a user's code from its copy, as if from the folder that was copied.

Runs in a process that imports one version of the code (Consumer, code check). Python's own finder of paths stays in
charge, in the order of `sys.path`; for entries below the folder it is given a finder that looks in the copy. A module
has the `__file__` that it would have without the copy, so that it finds its data, and so that tracebacks name the
user's files; the lines that they show are those that run. What was not copied (hidden folders, virtual environments) is
imported from where it is.
"""

import importlib
import linecache
import sys
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from importlib.util import decode_source
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any


def use_copy(folder: Path, copy: Path) -> None:
    """Import what is below `folder` from `copy` from now on, in this process."""

    def finder(entry: str) -> FileFinder:
        try:
            inside = copy / Path(entry).resolve().relative_to(folder)
        except ValueError:
            raise ImportError("it is not below the folder") from None
        if not inside.is_dir():
            raise ImportError("it was not copied")
        return _Finder(entry, inside)

    folder, copy = folder.resolve(), copy.resolve()
    sys.path_hooks.insert(0, finder)
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()


class _Finder(FileFinder):
    """Finds modules in one folder of the copy."""

    def __init__(self, original: str, inside: Path) -> None:
        super().__init__(str(inside), (ExtensionFileLoader, EXTENSION_SUFFIXES), (SourceFileLoader, SOURCE_SUFFIXES))
        self._original = Path(original)

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = super().find_spec(fullname, target)
        if spec is None:
            return None
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations[:] = map(self._there, spec.submodule_search_locations)
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _SourceLoader(fullname, self._there(spec.loader.path), spec.loader.path)
        elif isinstance(spec.loader, ExtensionFileLoader):
            spec.loader = _ExtensionLoader(fullname, self._there(spec.loader.path), spec.loader.path)
        if spec.origin is not None:
            spec.origin, spec.cached = self._there(spec.origin), None
        return spec

    def _there(self, path: str) -> str:
        """Return where a file or folder of the copy was."""
        return str(self._original / Path(path).relative_to(self.path))


class _SourceLoader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, copy: str) -> None:
        super().__init__(fullname, path)
        self._copy = copy

    def get_code(self, _fullname: str) -> CodeType:
        source = Path(self._copy).read_bytes()
        code: CodeType = self.source_to_code(source, self.path)
        lines = decode_source(source).splitlines(keepends=True)
        linecache.cache[self.path] = len(source), None, lines, self.path  # None: it is not read again
        return code

    def get_source(self, _fullname: str) -> str:
        return decode_source(Path(self._copy).read_bytes())


class _ExtensionLoader(ExtensionFileLoader):
    def __init__(self, fullname: str, path: str, copy: str) -> None:
        super().__init__(fullname, path)
        self._copy = copy

    def create_module(self, spec: ModuleSpec) -> Any:
        return super().create_module(ModuleSpec(spec.name, self, origin=self._copy))
