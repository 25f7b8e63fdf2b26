"""Which jobs may be named over HTTP: through the API, an operator can only choose code that is in the user's folder.

Runs in the code check, for jobs that neither the configuration nor a stored generation names. Before anything is
imported, the module must be allowed and must be found in a file of the user's folder; after the import, the name must
be defined in that module itself. Returns a sentence about what is refused.
"""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from mqworker.jobs.code_copy import ENVIRONMENTS


def refuse_before(job: str, allowed: tuple[str, ...], folder: Path) -> str:
    """Return why a job must not even be imported, or ""."""
    module, _, name = job.partition(":")
    if "." in name:
        return f'job "{job}": only a name of the module itself may be given, without dots'
    if module not in allowed:
        known = ", ".join(allowed) or "none"
        return (
            f'job "{job}": the module {module} may not be named here; allowed: {known} (what the'
            " configuration names, or control.jobs)"
        )
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # noqa: BLE001 - finding a submodule imports its package
        return f'job "{job}": the module {module} cannot be found: {type(error).__name__}: {error}'
    if spec is None or spec.origin is None or not _is_in(Path(spec.origin), folder):
        where = (
            "there is none" if spec is None else f"it is {os.path.realpath(spec.origin) if spec.origin else 'no file'}"
        )
        return f'job "{job}": the module {module} must be a file in {folder}: {where}'
    return ""


def refuse_after(job: str) -> str:
    """Return why a job whose module has been imported must not be used, or ""."""
    module_name, _, name = job.partition(":")
    module: ModuleType = sys.modules[module_name]
    if name not in vars(module):  # the module's `__getattr__` may make it up
        return f'job "{job}": {name} must be defined in {module_name} itself'
    target = vars(module)[name]
    try:
        place = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    except Exception as error:  # noqa: BLE001 - a metaclass may raise anything
        return f'job "{job}": cannot find out where it is defined: {type(error).__name__}'
    if place == (module_name, name):
        return ""
    defined = f"it is {place[1]} of {place[0]}" if all(place) else f"it is a {type(target).__name__}"
    return f'job "{job}": {name} must be defined in {module_name} itself, but {defined}'


def _is_in(path: Path, folder: Path) -> bool:
    """Whether a file, with symbolic links resolved, is in a folder and in no virtual environment inside it."""
    file, root = path.resolve(), folder.resolve()
    if not file.is_relative_to(root):
        return False
    between = file.relative_to(root).parents
    return not any((root / each / mark).exists() for each in between if each != Path() for mark in ENVIRONMENTS)
