"""The user's object, and how it is called: the same in production and in a replay.

Lives in the process of the shared object, or in a test of one. Its class has a `handle`, if it is a link, and any other
methods; these may ask by name for `params` (the caller's), `log` (silent during a replay) and `now` (seconds since the
epoch, the same in a replay). `tick(now)` is called every few seconds, `describe()` before each report. It has no
`setup`: its state is older than its process. Raises JobLoadError for a class that does not fit, StateError for a state
that does not fit the class; whatever a method raises becomes the answer to its call.
"""

import inspect
import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mqworker.ipc.json_safe import text
from mqworker.ipc.logs import JobLogger
from mqworker.jobs.failures import describe, message_of
from mqworker.jobs.loading import JobLoadError, load_target
from mqworker.jobs.params import validate
from mqworker.shared_state import answers, values
from mqworker.shared_state.folder import StateError

NAMES = ("params", "log", "now")
LARGEST_DESCRIPTION = 65_536  # bytes
NEVER_CALLED = frozenset(("tick", "setup", "teardown"))
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class SharedClass:
    """The user's class: which of its methods can be called, and what each asks for."""

    def __init__(self, job: str, root: Path, copy: Path | None = None) -> None:
        """Import it; raises JobLoadError."""
        target, module = load_target(job, root, copy)
        place = f'job "{job}"'
        if not inspect.isclass(target):
            raise JobLoadError(place, "what is shared must be a class", "name a class")
        for name in ("setup", "teardown"):
            if hasattr(target, name):
                what = f"a shared class has no {name}, because its state is older than its process"
                raise JobLoadError(place, what, "set the state up in __init__, and leave out what cannot be pickled")
        self.target: type = target
        self.job = job
        self.params_type: type | None = getattr(module, "Params", None)
        self._asked: dict[str, frozenset[str]] = {}
        for name in dir(target):
            method = inspect.getattr_static(target, name)
            if not name.startswith("_") and callable(getattr(target, name)) and not inspect.isclass(method):
                self._asked[name] = _asked_by(getattr(target, name), f"{place}: its method {name}")
        self.takes_params = any("params" in names for names in self._asked.values())

    def asked(self, method: str) -> frozenset[str] | None:
        """Return what a method asks for by name; None if it cannot be called from outside."""
        return None if method in NEVER_CALLED else self._asked.get(method)

    def has(self, method: str) -> bool:
        """Return whether the class has it."""
        return method in self._asked

    def new(self) -> Any:
        """Make an object and see whether it can be kept; raises JobLoadError."""
        place = f'job "{self.job}"'
        try:
            state = self.target()
        except BaseException as error:  # noqa: BLE001 - user code may raise anything
            what = describe(error)
            cause = f"making the object raised {what.type}: {what.message}"
            raise JobLoadError(place, cause, "it is made without arguments", what.traceback) from None
        try:
            pickle.dumps(state, protocol=5)
        except BaseException as error:  # noqa: BLE001 - as above
            what = describe(error)
            fix = "leave out what cannot be pickled, or write __getstate__ and __setstate__"
            raise JobLoadError(place, f"the object cannot be kept: {what.type}: {what.message}", fix) from None
        return state

    def adopt(self, load: Callable[[], Any]) -> Any:
        """Return an object that a snapshot holds; raises StateError if the class does not take it."""
        try:
            state = load()
        except BaseException as error:  # noqa: BLE001 - as above
            what = describe(error)
            cause = f"the state of {self.job} cannot be loaded by its class: {what.type}: {what.message}"
            raise StateError(f"{cause}; write a __setstate__ that takes it, or reset the object") from None
        if not isinstance(state, self.target):
            raise StateError(f"the state is one of {type(state).__qualname__}, not of {self.job}: reset the object")
        return state


class SharedInstance:
    """One object of that class; `state` is replaced by a reset."""

    def __init__(self, kind: SharedClass, state: Any, log: logging.Logger) -> None:
        self.kind = kind
        self.state = state
        self.log: logging.Logger = _SILENT
        self._loud = log
        self._methods: dict[str, tuple[Callable[..., Any], frozenset[str]]] = {}
        self._params: dict[bytes, Any] = {}
        self._pid = os.getpid()

    def speak(self) -> None:
        """Pass what the object logs on: the replay is over."""
        self.log = self._loud

    def replace(self, state: Any) -> None:
        """Go on with another state."""
        self.state = state
        self._methods.clear()

    def call(self, method: str, body: bytes, params: bytes, now: float) -> bytes:
        """Make one call and return its answer; never raises, whatever the user's code does.

        The answer is of the kind NOT_RUN if the method was not called: there is none, or the parameters do not fit.
        """
        try:
            found = self._methods.get(method)
            if found is None:
                found = self._methods[method] = self._find(method)
            function, asked = found
            bound = self._arguments(asked, params, now) if asked else {}
            argument = values.decode(body)
        except Exception as error:  # noqa: BLE001 - the user's Params may raise anything
            what = describe(error)
            return answers.not_run("error", what.message, what.type)
        try:
            if not method:
                return answers.returned(function(argument, **bound), body)
            return answers.returned(function(*argument[0], **argument[1], **bound), None)
        except BaseException as error:  # noqa: BLE001 - also SystemExit: it would hurt the calls of all messages
            return answers.raised(error)
        finally:
            self._end_copy()

    def tick(self, now: float) -> bytes:
        """Call `tick`, if there is one, and return its answer."""
        if not self.kind.has("tick"):
            return answers.returned(None, None)
        try:
            self.state.tick(now)
        except BaseException as error:
            self.log.exception("tick raised %s", type(error).__name__)
            return answers.raised(error)
        finally:
            self._end_copy()
        return answers.returned(None, None)

    def described(self) -> tuple[Any, str]:
        """Return what the object says of itself, and what was wrong with that."""
        if not self.kind.has("describe"):
            return None, ""
        try:
            value = msgspec.to_builtins(self.state.describe(), str_keys=True, enc_hook=repr)
            encoded = msgspec.msgpack.encode(value)
        except BaseException as error:  # noqa: BLE001 - as above
            return None, text(f"{type(error).__name__}: {message_of(error)}")
        finally:
            self._end_copy()
        if len(encoded) > LARGEST_DESCRIPTION:
            return None, f"describe returned {len(encoded):,} bytes; {LARGEST_DESCRIPTION:,} are passed on"
        return value, ""

    def _end_copy(self) -> None:
        """End a copy of this process that a method has forked and that has returned: nothing here belongs to it."""
        if os.getpid() != self._pid:
            os._exit(0)

    def _find(self, method: str) -> tuple[Callable[..., Any], frozenset[str]]:
        asked = self.kind.asked(method or "handle")
        if asked is None:
            names = ", ".join(name for name in self.kind._asked if name not in NEVER_CALLED)
            raise AttributeError(f"{self.kind.job} has no method {method or 'handle'!r} to be called; it has: {names}")
        return getattr(self.state, method or "handle"), asked

    def _arguments(self, asked: frozenset[str], params: bytes, now: float) -> dict[str, Any]:
        bound: dict[str, Any] = {}
        if "now" in asked:
            bound["now"] = now
        if "log" in asked:
            bound["log"] = self.log
        if "params" in asked:
            known = self._params.get(params)
            if known is None:
                if len(self._params) >= 64:
                    self._params.clear()
                mapping = json.loads(params or b"{}")  # the plain mapping beside it: other jobs have other fields
                known = self._params[params] = validate(mapping, (self.kind.params_type, None))[0]
            bound["params"] = known
        return bound


def _asked_by(method: Callable[..., Any], place: str) -> frozenset[str]:
    called = getattr(method, "__call__", method)  # noqa: B004 - an instance's own __call__ may be the coroutine
    for candidate in (method, called):
        if inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(candidate):
            raise JobLoadError(place, "it is an async function", "write a plain one")
    if inspect.isgeneratorfunction(method):
        raise JobLoadError(place, "it yields", "return a list: one call has one answer")
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return frozenset()  # implemented in C
    return frozenset(each.name for each in parameters if each.name in NAMES and each.kind in _BY_NAME)


_SILENT = JobLogger("mqworker.job.silent", logging.NullHandler(), logging.CRITICAL + 1)
JobLogger.all.remove(_SILENT)  # its level stays
