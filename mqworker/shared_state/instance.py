"""The user's object, and how it is called: the same in production and in a replay.

Lives in the process of the shared object, or in a test of one. The class has a `handle` if it is a link, and any other
methods; all of them may ask by name for `params` (the caller's), `log` (silent during a replay) and `now` (seconds
since the epoch, the same in a replay). `tick(now)` is called every few seconds, `describe()` before each report. There
is no `setup`, because the state is older than the process. Raises JobLoadError for a class that does not fit,
StateError for a state that does not fit the class; whatever a method raises becomes the answer to its call.
"""

import inspect
import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import msgspec

from mqworker.ipc.json_safe import text
from mqworker.ipc.logs import JobLogger
from mqworker.jobs.binding import BindingError, bind_shared
from mqworker.jobs.failures import describe, message_of
from mqworker.jobs.loading import JobLoadError, load_target
from mqworker.jobs.params import validate
from mqworker.shared_state import answers, values
from mqworker.shared_state.folder import StateError

LARGEST_DESCRIPTION = 65_536  # bytes
NEVER_CALLED = frozenset(("tick", "setup", "teardown"))


class SharedClass:
    """The user's class: which of its methods can be called, and what each asks for."""

    def __init__(self, target: Any, module: ModuleType | None, job: str) -> None:
        """Examine the class; raises JobLoadError."""
        place = f'job "{job}"'
        if not inspect.isclass(target):
            raise JobLoadError(place, "what is shared must be a class", "give the name of a class")
        for name in ("setup", "teardown"):
            if hasattr(target, name):
                what = f"a shared class has no {name}, because its state is older than its process"
                raise JobLoadError(place, what, "set the state up in __init__, and leave out what cannot be pickled")
        self.target: type = target
        self.job = job
        self.params_type: type | None = getattr(module, "Params", None)
        try:
            self._asked = bind_shared(target)
        except BindingError as error:
            raise JobLoadError(place, error.cause, error.fix) from None
        self.takes_params = any("params" in names for names in self._asked.values())

    @classmethod
    def load(cls, job: str, root: Path, copy: Path | None = None) -> Self:
        """Import the class; raises JobLoadError."""
        return cls(*load_target(job, root, copy), job)

    def asked(self, method: str) -> frozenset[str] | None:
        """Return what a method asks for by name; None if it cannot be called from outside."""
        return None if method in NEVER_CALLED else self._asked.get(method)

    def has(self, method: str) -> bool:
        """Return whether the class has this method."""
        return method in self._asked

    def new(self) -> Any:
        """Make an object and check that it can be stored; raises JobLoadError."""
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
            fix = "leave out what cannot be pickled, or write __getstate__ and __setstate__"
            raise JobLoadError(place, f"the object cannot be kept: {cannot_be_kept(state, error)}", fix) from None
        return state

    def adopt(self, load: Callable[[], Any], *, changed: bool) -> Any:
        """Return the object from a snapshot; raises StateError if it does not fit the class.

        `changed`: the class may differ from the one that the snapshot was made from.
        """
        try:
            state = load()
        except BaseException as error:  # noqa: BLE001 - as above
            what = describe(error)
            cause = f"the state of {self.job} cannot be loaded by its class: {what.type}: {what.message}"
            raise StateError(f"{cause}; write a __setstate__ that takes it, or reset the object") from None
        if not isinstance(state, self.target):
            raise StateError(f"the state is one of {type(state).__qualname__}, not of {self.job}: reset the object")
        if changed:
            there = getattr(self.new(), "__dict__", {})
            missing = [name for name in there if not hasattr(state, name)]
            if missing:
                cause = f"the state of {self.job} has no {', '.join(missing)}, which its class sets in __init__"
                raise StateError(f"{cause}; write a __setstate__ that adds what is new, or reset the object")
        return state


def cannot_be_kept(state: Any, error: BaseException) -> str:
    """Return why a state cannot be pickled, with the attributes that cause it."""
    what = f"{type(error).__name__}: {message_of(error)}"
    named = []
    for name, value in getattr(state, "__dict__", {}).items():
        try:
            pickle.dumps(value, protocol=5)
        except BaseException:  # noqa: BLE001 - as above
            named.append(name)
    return text(f"{what} (attribute {', '.join(named)})" if named else what)


class SharedInstance:
    """One object of that class; `state` is replaced by a reset."""

    def __init__(self, kind: SharedClass, state: Any, log: logging.Logger) -> None:
        self.kind = kind
        self.state = state
        self.log: logging.Logger = _SILENT
        self._loud = log
        self._methods: dict[str, tuple[Callable[..., Any], frozenset[str]]] = {}
        self._params: dict[bytes, Any] = {}
        self._answers: dict[str, str] = {}  # method -> how errors name its answer
        self.tick_problem = ""  # what the last `tick` raised
        self._pid = os.getpid()

    def enable_log(self) -> None:
        """Pass on what the object logs from now on: the replay is over."""
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
                return answers.returned(function(argument, **bound), body, self._answer_of("handle"))
            return answers.returned(function(*argument[0], **argument[1], **bound), None, self._answer_of(method))
        except BaseException as error:  # noqa: BLE001 - also SystemExit, which would affect the calls of all messages
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
            what = text(f"tick raised {type(error).__name__}: {message_of(error)}")
            if what != self.tick_problem:
                self.log.exception("%s", what)
            self.tick_problem = what
            return answers.raised(error)
        finally:
            self._end_copy()
        self.tick_problem = ""
        return answers.returned(None, None)

    def described(self) -> tuple[Any, str]:
        """Return the object's description of itself, and what went wrong in making it."""
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

    def _answer_of(self, method: str) -> str:
        name = self._answers.get(method)
        if name is None:
            name = self._answers[method] = f"the answer of {self.kind.target.__qualname__}.{method}"
        return name

    def _end_copy(self) -> None:
        """End this process if it is a copy that a method has forked and returned in: nothing here belongs to it."""
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
                mapping = json.loads(params or b"{}")  # without the plain mapping: other jobs have other fields
                known = self._params[params] = validate(mapping, (self.kind.params_type, None))[0]
            bound["params"] = known
        return bound


_SILENT = JobLogger("mqworker.job.silent", logging.NullHandler(), logging.CRITICAL + 1)
JobLogger.all.remove(_SILENT)  # so that its level is never changed
