"""Which arguments a job takes, read once from its signature when it is loaded.

Pure, except that it inspects the user's objects. The first positional argument is the decoded body; further ones are
passed by name, if the job takes them. Raises `BindingError` with cause and fix, to which `loading` adds the place.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from inspect import Parameter
from typing import Any, Final

from mqworker.config.model import HANDLE_NAMES

DEADLINE: Final = "deadline"
SETUP_NAMES: Final = ("params", "log")
_FIXED: Final = {"tick": (1, "def tick(self, now)"), "describe": (0, "def describe(self)")}  # number of arguments, fix
SHARED_NAMES: Final = ("params", "log", "now")  # what a method of a shared class may ask for
SOURCE_NAMES: Final = ("position", "params", "log")  # what a generator may ask for ...
TICK_NAMES: Final = (*SOURCE_NAMES, "due")  # ... and a function that is called at ticks
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


class BindingError(Exception):
    """A job cannot be called with the arguments that mqworker passes."""

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(f"{cause}; {fix}")
        self.cause = cause
        self.fix = fix


def bind_function(function: Callable[..., Any], shared: Iterable[str] = ()) -> frozenset[str]:
    """Return which of `HANDLE_NAMES`, and of the names of shared objects, a function takes besides the body."""
    return _bind(_parameters(function), what="it", takes_body=True, names=(*HANDLE_NAMES, *shared))


def bind_class(kind: type, shared: Iterable[str] = ()) -> tuple[frozenset[str], frozenset[str]]:
    """Return which arguments a job class takes by name in `handle` and in `setup`."""
    handle = getattr(kind, "handle", None)
    if not callable(handle):
        raise BindingError(f"the class {kind.__name__} has no method handle", "write def handle(self, body)")
    try:
        inspect.signature(kind).bind()
    except TypeError:
        fix = "give its arguments defaults, and move what needs parameters to def setup(self, params)"
        raise BindingError(f"the class {kind.__name__} cannot be instantiated without arguments", fix) from None
    except ValueError:
        pass  # implemented in C: its arguments are unknown
    names = (*HANDLE_NAMES, *shared)
    arguments = _bind(_method(kind, "handle"), what="its handle", takes_body=True, names=names)
    for name in ("setup", "teardown"):
        if hasattr(kind, name):
            method = getattr(kind, name)
            if is_async(method) and not is_async(handle):
                raise BindingError(f"its {name} is an async function, but its handle is not", "write a plain one")
            if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
                raise BindingError(f"its {name} yields, so calling it does nothing", "write it without yield")
    setup = _bind(_method(kind, "setup"), what="its setup", takes_body=False, names=SETUP_NAMES)
    _bind(_method(kind, "teardown"), what="its teardown", takes_body=False, names=())
    return arguments, setup


def defaults_deadline(target: Callable[..., Any]) -> bool:
    """Return whether a function, or a class's `handle`, has a default for `deadline`, which is used without a limit."""
    parameters = _method(target, "handle") if inspect.isclass(target) else _parameters(target)
    return any(each.name == DEADLINE and each.default is not Parameter.empty for each in parameters or ())


def bind_shared(kind: type) -> dict[str, frozenset[str]]:
    """Return which of SHARED_NAMES each method of a shared class takes by name; private methods are left out."""
    found = {}
    for name in dir(kind):
        method = getattr(kind, name)
        if name.startswith("_") or not callable(method) or inspect.isclass(inspect.getattr_static(kind, name)):
            continue
        try:
            _refuse_async(method)
        except BindingError as error:
            raise BindingError(f"its method {name}: {error.cause}", "write a plain one") from None
        if inspect.isgeneratorfunction(method):
            raise BindingError(f"its method {name} yields", "return a list: one call has one answer")
        parameters = _method(kind, name)
        if name == "handle":
            found[name] = _bind(parameters, what="its handle", takes_body=True, names=SHARED_NAMES)
        elif name in _FIXED:
            count, fix = _FIXED[name]
            try:
                if parameters is not None:
                    inspect.Signature(parameters).bind(*[None] * count)
            except TypeError:
                what = f"{kind.__name__}.{name} does not accept the arguments that it gets"
                raise BindingError(what, f"write {fix}") from None
            found[name] = frozenset()
        else:
            named = [each for each in parameters or () if each.kind in _BY_NAME and each.name in SHARED_NAMES]
            found[name] = frozenset(each.name for each in named)
    return found


def bind_source(function: Callable[..., Any], *, scheduled: bool) -> frozenset[str]:
    """Return what a source takes by name."""
    if inspect.isclass(function):
        raise BindingError(f"it is the class {function.__name__}", "a source is a function: write one that makes it")
    _refuse_async(function)
    names = TICK_NAMES if scheduled else SOURCE_NAMES
    return _bind(_parameters(function), what="it", takes_body=False, names=names)


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether calling the function returns a coroutine or an async generator."""
    called = getattr(function, "__call__", function)  # noqa: B004 - an instance's own __call__ may be the coroutine
    return any(inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in (function, called))


def is_for_each_thread(kind: type) -> bool:
    """Return whether a job class asks for one instance per thread, by `scope = "thread"`."""
    scope = getattr(kind, "scope", None)
    if not isinstance(scope, str) or not get_close_matches(scope, ("thread",)):
        return False  # the class may use an attribute of this name for itself
    if scope != "thread":
        raise BindingError(f"its scope is {scope!r}", 'write scope = "thread"')
    if is_async(kind.handle):  # type: ignore[attr-defined]  # a job class: bind_class has checked
        what = "its scope is a thread, but its handle is an async function, which runs in the only thread of the loop"
        raise BindingError(what, "leave the scope out: there is one instance for the loop")
    return True


def _refuse_async(function: Callable[..., Any]) -> None:
    if is_async(function):
        raise BindingError("it is an async function", "write a plain one that calls asyncio.run itself")


def _parameters(function: Callable[..., Any]) -> list[Parameter] | None:
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:
        return None  # implemented in C, without a signature: it receives only the body


def _method(kind: type, name: str) -> list[Parameter] | None:
    method = getattr(kind, name, None)
    if method is None:
        return None
    parameters = _parameters(method)
    if parameters and inspect.isfunction(inspect.getattr_static(kind, name)):
        return parameters[1:] if parameters[0].kind is not Parameter.VAR_POSITIONAL else parameters  # without self
    return parameters


def _bind(parameters: list[Parameter] | None, *, what: str, takes_body: bool, names: Iterable[str]) -> frozenset[str]:
    if parameters is None:
        return frozenset()
    if takes_body:
        if not parameters or parameters[0].kind not in _POSITIONAL:
            fix = "its first argument is the decoded body, passed by position"
            raise BindingError(f"{what} takes no positional argument", fix)
        parameters = parameters[1:]
    arguments = set()
    for parameter in parameters:
        if parameter.name == DEADLINE and _is_finite(parameter.default):
            continue  # an argument of the user's own, in seconds: not a time on the monotonic clock
        if parameter.kind in _BY_NAME and parameter.name in names:
            arguments.add(parameter.name)
        elif parameter.default is Parameter.empty and parameter.kind not in _VARIADIC:
            raise BindingError(
                f"{what} takes {parameter.name!r}, which mqworker does not pass", _offer(parameter, names, takes_body)
            )
    return frozenset(arguments)


def _is_finite(default: Any) -> bool:
    if isinstance(default, float):
        return math.isfinite(default)
    return isinstance(default, int) and not isinstance(default, bool)


def _offer(parameter: Parameter, names: Iterable[str], takes_body: bool) -> str:
    names = tuple(names)
    first = "the first argument is the body; " if takes_body else ""
    more = " (or be the name of a [shared.NAME])" if takes_body else ""
    if not names:
        return "it must take no arguments"
    if parameter.name in names:
        return f"{parameter.name!r} is passed by name: write it after the '/'"
    near = get_close_matches(parameter.name, names, 1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"{first}by name it may take {', '.join(names)}{more}; any other needs a default"
