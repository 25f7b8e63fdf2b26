"""Which arguments a job takes, read once from its signature when it is loaded.

Pure, but for looking at the user's objects. The first positional argument is the decoded body; further ones are given
by name, if asked for. Fails with `BindingError`: cause and fix, to which `loading` adds the place.
"""

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from inspect import Parameter
from typing import Any, Final

HANDLE_NAMES: Final = ("params", "message", "log")
SETUP_NAMES: Final = ("params", "log")
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)
_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


class BindingError(Exception):
    """A job cannot be called with what mqworker gives."""

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(f"{cause}; {fix}")
        self.cause = cause
        self.fix = fix


def bind_function(function: Callable[..., Any]) -> frozenset[str]:
    """Return which of `HANDLE_NAMES` a function asks for besides the body."""
    _refuse_kinds(function)
    return _bind(_parameters(function), what="it", wants_body=True, names=HANDLE_NAMES)


def bind_class(kind: type) -> tuple[frozenset[str], frozenset[str]]:
    """Return which names a job class asks for in `handle` and in `setup`."""
    handle = getattr(kind, "handle", None)
    if not callable(handle):
        raise BindingError(f"the class {kind.__name__} has no method handle", "write def handle(self, body)")
    try:
        inspect.signature(kind).bind()
    except TypeError:
        fix = "give its arguments defaults, and do what needs parameters in def setup(self, params)"
        raise BindingError(f"the class {kind.__name__} cannot be made without arguments", fix) from None
    except ValueError:
        pass  # built in C: nothing is known of its arguments
    _refuse_kinds(handle)
    asked = _bind(_method(kind, "handle"), what="its handle", wants_body=True, names=HANDLE_NAMES)
    for name in ("setup", "teardown"):
        if hasattr(kind, name):
            _refuse_kinds(getattr(kind, name))
    setup = _bind(_method(kind, "setup"), what="its setup", wants_body=False, names=SETUP_NAMES)
    _bind(_method(kind, "teardown"), what="its teardown", wants_body=False, names=())
    return asked, setup


def _refuse_kinds(function: Callable[..., Any]) -> None:
    called = getattr(function, "__call__", function)  # noqa: B004 - an instance's own __call__ may be the coroutine
    for one in (function, called):
        if inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one):
            raise BindingError("it is an async function", "write a plain one that calls asyncio.run itself")
        if inspect.isgeneratorfunction(one):
            raise BindingError("it yields, but a message has one result", "return the result, e.g. as a list")


def _parameters(function: Callable[..., Any]) -> list[Parameter] | None:
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:
        return None  # built in C, without a signature: the body is all it gets


def _method(kind: type, name: str) -> list[Parameter] | None:
    method = getattr(kind, name, None)
    if method is None:
        return None
    parameters = _parameters(method)
    if parameters and inspect.isfunction(inspect.getattr_static(kind, name)):
        return parameters[1:] if parameters[0].kind is not Parameter.VAR_POSITIONAL else parameters  # without self
    return parameters


def _bind(parameters: list[Parameter] | None, *, what: str, wants_body: bool, names: Iterable[str]) -> frozenset[str]:
    if parameters is None:
        return frozenset()
    if wants_body:
        if not parameters or parameters[0].kind not in _POSITIONAL:
            fix = "its first argument is the decoded body, given by position"
            raise BindingError(f"{what} takes no positional argument", fix)
        parameters = parameters[1:]
    asked = set()
    for parameter in parameters:
        by_name = parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        if by_name and parameter.name in names:
            asked.add(parameter.name)
        elif parameter.default is Parameter.empty and parameter.kind not in _VARIADIC:
            raise BindingError(
                f"{what} asks for {parameter.name!r}, which is not given", _offer(parameter, names, wants_body)
            )
    return frozenset(asked)


def _offer(parameter: Parameter, names: Iterable[str], wants_body: bool) -> str:
    names = tuple(names)
    first = "the first argument is the body, " if wants_body else ""
    if not names:
        return "it takes no arguments"
    if parameter.name in names:
        return f"{parameter.name!r} is given by name: write it after the '/'"
    near = get_close_matches(parameter.name, names, 1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"{first}by name come {', '.join(names)}; any other needs a default"
