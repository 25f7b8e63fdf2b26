"""Turns "module:name" into jobs that can be run, and finds the files of programs.

Runs once in a fresh process (Consumer, code check, a user's test): imports the user's modules, whose folder it puts
first on `sys.path`, and reads the signatures. New code is loaded by a new process, never by reloading. Raises
`JobLoadError` with place, cause and fix, and the traceback if the user's code raised.

Longer than most modules, because it has a sentence for each mistake that a user can make here.
"""

import importlib
import inspect
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import msgspec

from mqworker.config.programs import command_of, is_program
from mqworker.jobs.binding import (
    BindingError,
    bind_class,
    bind_function,
    bind_shared,
    bind_source,
    defaults_deadline,
    is_async,
    is_for_each_thread,
)
from mqworker.jobs.failures import describe
from mqworker.jobs.params import kind_of

NONE: Mapping[str, str] = MappingProxyType({})


class JobLoadError(Exception):
    """A job cannot be loaded; the text has place, cause and fix, `detail` has the user's traceback, if any."""

    def __init__(self, place: str, cause: str, fix: str, detail: str = "") -> None:
        super().__init__(f"{place}: {cause}; {fix}" + (f"\n{detail}" if detail else ""))
        self.place = place
        self.cause = cause
        self.fix = fix
        self.detail = detail


class ProgramFile(msgspec.Struct, frozen=True):
    """Where a program is, and the folder that it runs in."""

    file: str
    folder: str


class Job(msgspec.Struct, frozen=True):
    """One link of a chain: what to call, and with which arguments."""

    spec: str
    target: Callable[..., Any]  # a function, or a class with `handle`
    params_type: type | None  # the `Params` of its module
    arguments: frozenset[str]  # passed by name to every call
    setup_arguments: frozenset[str] | None  # the same for `setup`; None if the job is a function
    shared: str = ""  # the name of the shared object whose `handle` the job is; "" if it is none
    shared_params: tuple[type | None, ...] = ()  # the `Params` of the shared objects that the job calls
    program: ProgramFile | None = None  # the program that it runs instead of calling `target`
    is_async: bool = False
    for_each_thread: bool = False  # it is a class, and each thread has its own instance
    defaults_deadline: bool = False  # it has a default for `deadline`, used if there is no limit

    @property
    def takes_params(self) -> bool:
        """Return whether the job ever receives the parameters."""
        return "params" in self.arguments or "params" in (self.setup_arguments or ())


def load_chain(
    specs: Sequence[str], root: str | Path, copy: Path | None = None, shared: Mapping[str, str] = NONE
) -> list[Job]:
    """Import the jobs of a stage, in order; raises `JobLoadError` for the first that fails."""
    return [load_job(spec, root, copy, shared) for spec in specs]


def load_job(spec: str, root: str | Path, copy: Path | None = None, shared: Mapping[str, str] = NONE) -> Job:
    """Import one job, "module:name" (both may be dotted), from the folder `root` or from anywhere Python finds it.

    `copy`: the copy from which the code of that folder is imported (`use_copy`). `shared`: the classes of the named
    shared objects. A program is found in the folder `root`, or on the PATH.
    """
    if is_program(spec):
        return load_program(spec, root)
    target, module = load_target(spec, root, copy)
    job = make_job(target, module, spec, shared)
    called = {name: load_target(shared[name], root, copy) for name in sorted(job.arguments & shared.keys())}
    return with_shared(job, called, shared)


def load_program(spec: str, root: str | Path) -> Job:
    """Find the program of a job; raises `JobLoadError` if it cannot be run."""
    folder = Path(root).resolve()
    try:
        command = command_of(spec)
    except ValueError as error:
        raise JobLoadError(f"job {spec[:100]!r}", str(error), 'write exec = ["./program", "argument"]') from None
    place = f"program {shlex.quote(command[0])}"
    if any("\0" in part for part in command):
        raise JobLoadError(place, "an argument has a NUL character, which no program can get", "leave it out")
    file = folder / command[0] if "/" in command[0] else _on_path(command[0], folder, place)
    if not file.is_file():
        what = f"{file} is not a file" if file.exists() else f"there is no file {file}"
        raise JobLoadError(place, what, f"name the program itself; a relative path starts at {folder}")
    if not os.access(file, os.X_OK):
        raise JobLoadError(place, f"{file} is not executable", f"chmod +x {shlex.quote(str(file))}")
    given = frozenset(("message", "log"))
    return Job(spec, _never_called, None, given, None, program=ProgramFile(str(file), str(folder)))


def _on_path(name: str, folder: Path, place: str) -> Path:
    found = shutil.which(name)
    if found is not None:
        return Path(found).absolute()
    fix = "install it, or give its path"
    if (folder / name).is_file():
        fix = f'write "./{name}" for the one in {folder}'
    raise JobLoadError(place, f"there is no program {name} on the PATH", fix)


def _never_called(_body: object) -> None:
    """Placeholder for a program, which the chain runs."""
    raise AssertionError


def load_source(spec: str, root: str | Path, copy: Path | None = None, *, scheduled: bool) -> Job:
    """Import the function of a source; raises `JobLoadError`."""
    target, module = load_target(spec, root, copy)
    return make_source(target, module, spec, scheduled=scheduled)


def make_source(target: Any, module: ModuleType | None, spec: str, *, scheduled: bool) -> Job:
    """Make a source's job from a user's function; `module` is searched for its `Params`."""
    place = f'source "{spec}"'
    if not callable(target):
        raise JobLoadError(place, f"it is {_a(type(target).__name__)}, which cannot be called", "name a function")
    try:
        arguments = bind_source(target, scheduled=scheduled)
    except BindingError as exc:
        raise JobLoadError(place, exc.cause, exc.fix) from None
    return Job(spec, target, _params_type(module, place), arguments, None)


def with_shared(job: Job, called: Mapping[str, tuple[Any, ModuleType | None]], shared: Mapping[str, str]) -> Job:
    """Return the job with the `Params` of the shared objects that it calls; `called` has class and module by name."""
    more = [each for name, (kind, where) in called.items() for each in _shared_params(kind, where, shared[name])]
    return msgspec.structs.replace(job, shared_params=(*job.shared_params, *more)) if more else job


def load_target(spec: str, root: str | Path, copy: Path | None = None) -> tuple[Any, ModuleType]:
    """Import the object that a job names, and return it with its module; raises `JobLoadError`."""
    place = f'job "{spec}"'
    module_name, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *name.split(".")]):
        raise JobLoadError(
            place, "a job is written module:name", 'for example "primes:largest" for largest in primes.py'
        )
    folder = Path(root).resolve()
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))
    module = _import(module_name, folder, copy or folder, place)
    return _attribute(module, name, place), module


def shared_name(spec: str, shared: Mapping[str, str]) -> str:
    """Return the name of the shared object of a class: the configured name, or one made from that of the class."""
    return next((name for name, job in shared.items() if job == spec), spec.replace(":", "."))


def make_job(target: Any, module: ModuleType | None, spec: str, shared: Mapping[str, str] = NONE) -> Job:
    """Make a job from a user's object; `module` is searched for its `Params`."""
    place = f'job "{spec}"'
    if not callable(target):
        fix = "name a function, or a class with a method handle"
        raise JobLoadError(place, f"it is {_a(type(target).__name__)}, which cannot be called", fix)
    shares = getattr(target, "shared", False) if inspect.isclass(target) else False
    if isinstance(shares, str | int) and not isinstance(shares, bool):
        raise JobLoadError(place, f"its attribute shared is {_a(type(shares).__name__)}", "write shared = True")
    if shares is True:
        if not callable(getattr(target, "handle", None)):
            what = f"the class {target.__name__} has no method handle, which a link of a chain needs"
            raise JobLoadError(place, what, "write def handle(self, body)")
        params = _shared_params(target, module, spec)
        return Job(spec, target, None, frozenset(), None, shared_name(spec, shared), params)
    own = False
    try:
        if inspect.isclass(target):
            arguments, setup_arguments = bind_class(target, shared)
            own = is_for_each_thread(target)
        else:
            arguments, setup_arguments = bind_function(target, shared), None
    except BindingError as exc:
        raise JobLoadError(place, exc.cause, exc.fix) from None
    called = getattr(target, "handle", target) if inspect.isclass(target) else target
    return Job(
        *(spec, target, _params_type(module, place), arguments, setup_arguments),
        is_async=is_async(called),
        for_each_thread=own,
        defaults_deadline="deadline" in arguments and defaults_deadline(target),
    )


def _shared_params(kind: Any, module: ModuleType | None, spec: str) -> tuple[type | None, ...]:
    """Return the `Params` of a shared class, or None if it takes any; an empty tuple if it takes no parameters."""
    place = f'job "{spec}"'
    try:
        takes = inspect.isclass(kind) and any("params" in names for names in bind_shared(kind).values())
    except BindingError as error:
        raise JobLoadError(place, error.cause, error.fix) from None
    return (_params_type(module, place),) if takes else ()


def _import(name: str, folder: Path, code: Path, place: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - the user's module may raise anything when imported
        if isinstance(exc, ModuleNotFoundError) and exc.name and f"{name}.".startswith(f"{exc.name}."):
            raise _missing(name, exc.name, folder, place) from None
        kind, message, detail = describe(exc)
        cause = f"importing {name} raised {kind}" + (f": {message}" if message else "")
        raise JobLoadError(place, cause, "fix it, so that the module can be imported", detail) from None
    _refuse_shadowed(module, name, folder, code, place)
    return module


def _missing(name: str, absent: str, folder: Path, place: str) -> JobLoadError:
    """Suggest what exists instead, for the first missing part of a dotted name."""
    inside = folder.joinpath(*absent.split(".")[:-1])
    found = sorted(_modules(inside))
    near = get_close_matches(absent.rpartition(".")[2], found, 1)
    if near:
        fix = f"did you mean {name.replace(absent, '.'.join([*absent.split('.')[:-1], near[0]]), 1)!r}?"
    elif found:
        fix = f"{inside} has: {', '.join(found[:20])}"
    else:
        fix = f"create {absent.replace('.', '/')}.py in {folder}"
    return JobLoadError(place, f"there is no module {absent!r} in {folder}, and none is installed", fix)


def _modules(folder: Path) -> Iterable[str]:
    try:
        entries = list(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.suffix == ".py" and entry.stem.isidentifier() and entry.stem != "__init__":
            yield entry.stem
        elif entry.is_dir() and entry.name.isidentifier() and any(entry.glob("*.py")):
            yield entry.name


def _refuse_shadowed(module: ModuleType, name: str, folder: Path, code: Path, place: str) -> None:
    """Report a user's queue.py that Python's own `queue` hides: otherwise the error would be "no attribute".

    `code`: the folder that the code is imported from; `folder` may have been edited since.
    """
    base = code.joinpath(*name.split("."))
    candidates = [path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()]
    loaded = [str(getattr(module.__spec__, "origin", None)), str(getattr(module.__loader__, "path", None))]
    if candidates and not any(_is_file(path, name) for path in candidates for name in loaded):
        there = folder / candidates[0].relative_to(code)
        cause = f"{there} is hidden by another module {name!r} ({getattr(module, '__file__', None) or 'built in'})"
        raise JobLoadError(place, cause, "give it another name")


def _is_file(path: Path, name: str) -> bool:
    try:
        return path.samefile(name)
    except OSError:
        return False


def _attribute(module: ModuleType, name: str, place: str) -> Any:
    value: Any = module
    path = module.__name__
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            known = [each for each in dir(value) if not each.startswith("_")]
            near = get_close_matches(part, known, 1)
            defined = [
                each for each in known if getattr(getattr(value, each, None), "__module__", None) == module.__name__
            ]
            there = f"it has: {', '.join(defined[:20])}" if defined else f"define {part} there"
            raise JobLoadError(
                place, f"{path} has no {part!r}", f"did you mean {near[0]!r}?" if near else there
            ) from None
        path += f".{part}"
    return value


def _params_type(module: ModuleType | None, place: str) -> type | None:
    params_type: type | None = getattr(module, "Params", None)
    if params_type is None:
        return None
    kind = kind_of(params_type)
    if kind is None:
        fix = "make it a dataclass, a msgspec.Struct or a pydantic model"
        raise JobLoadError(place, "its module's Params cannot validate parameters", fix)
    if kind != "pydantic":
        try:
            msgspec.inspect.type_info(params_type)
        except Exception as exc:  # noqa: BLE001 - evaluating annotations may raise anything
            fix = "use annotations that msgspec can convert"
            raise JobLoadError(place, f"its module's Params cannot be read: {exc}", fix) from None
    return params_type


def _a(noun: str) -> str:
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"
