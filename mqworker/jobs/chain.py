"""The jobs of a stage, ready to run: what turns a decoded body into a result.

Lives in one Consumer (or code check, or user's test), whose main thread alone uses it. Owns the instances of the user's
job classes. Receives `setup`, then one `run` for each message, with `apply_params` between messages, then `teardown`.
Whatever the user's code raises passes through; `ParamsError` is raised before anything is changed.
"""

import functools
import logging
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from types import GeneratorType
from typing import Any, Protocol

from mqworker.jobs.loading import Job
from mqworker.jobs.message import Message
from mqworker.jobs.params import validate
from mqworker.jobs.result import Result, Several


class SharedCaller(Protocol):
    """What makes the calls of objects that all Consumers share."""

    def link(self, name: str, link: str, value: Any) -> Any:
        """Call `handle` of an object, as a link of the chain."""

    def proxy(self, name: str) -> Any:
        """Return what a handler gets by an argument of the object's name."""

    def use_params(self, params: Mapping[str, Any]) -> None:
        """Pass these parameters with the calls from now on."""


class ProgramRunner(Protocol):
    """What runs the programs of a chain."""

    def setup(self) -> None:
        """Get ready for that."""

    def teardown(self) -> None:
        """End what that needed."""

    def make(self, job: Job) -> Callable[..., Any]:
        """Return the function that runs the program of a job."""


_SPECIAL = frozenset((GeneratorType, Result))


def check_params(jobs: Sequence[Job], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return each job's own parameters by its spec; raises `ParamsError`.

    Jobs that have no `Params` and never take parameters do not count: only what a job reads can be wrong. What the
    shared objects read that the jobs call is checked with it.
    """
    readers = {job.spec: job.params_type for job in jobs if job.params_type is not None or job.takes_params}
    shared = [kind for job in jobs for kind in job.shared_params]
    return dict(zip(readers, validate(params, [*readers.values(), *shared]), strict=False))


class Chain:
    """Jobs called one after another, each with the result of the one before."""

    def __init__(
        self,
        jobs: Sequence[Job],
        params: Mapping[str, Any],
        stage: str = "",
        log: logging.Logger | None = None,
        shared: SharedCaller | None = None,
        programs: ProgramRunner | None = None,
    ) -> None:
        """`log` is what jobs get as `log`; without it, a logger named after the stage.

        `shared` makes the calls of shared objects, `programs` runs programs.
        """
        self._jobs = tuple(jobs)
        self._params = check_params(jobs, params)
        self._log = log or logging.getLogger(f"mqworker.job.{stage}" if stage else "mqworker.job")
        self._functions: list[Callable[..., Any]] = []  # per job: the function, or the bound `handle`
        self._instances: list[Any] = []  # of the job classes that were set up
        self._shared = shared
        if shared is not None:
            shared.use_params(params)
        self._programs = programs
        self._calls: tuple[
            tuple[Callable[..., Any], bool], ...
        ]  # filled by `setup`: what to call, and whether to pass the message
        self.takes_message = any("message" in job.arguments for job in jobs)
        first = self._jobs[0] if self._jobs else None
        # the object and the link that a chain begins with: its calls for several messages may be made together
        self.first_link = (first.shared, first.spec) if first is not None and first.shared else None
        self.takes_bytes = first is not None and first.program is not None  # whatever the content type says

    def setup(self) -> None:
        """Make the instances and call their `setup`, once per process; after a failure, tear down those made so far."""
        try:
            if self._programs is not None:
                self._programs.setup()
                self._instances.append(self._programs)
            links: Counter[str] = Counter()
            for job in self._jobs:
                if job.shared:
                    links[job.spec] += 1
                    function = self._link(job, links[job.spec])
                elif job.program is not None:
                    assert self._programs is not None, "who makes a chain with a program gives it a runner"
                    function = self._programs.make(job)
                elif job.setup_arguments is None:
                    function = job.target
                else:
                    function = self._make(job, job.setup_arguments)
                self._functions.append(function)
        except BaseException:
            self.teardown()
            raise
        self._bind()

    def run(self, body: Any, message: Message | None = None) -> Any:
        """Return the last job's result, or None as soon as a job returns None: the message is dropped.

        When a job yields, each value goes through the rest of the chain: the result is a `Several`, which may turn out
        to be empty. `message` may be None unless `takes_message`.
        """
        value, wishes = body, None
        for place, (call, with_message) in enumerate(self._calls, 1):
            value = call(value, message=message) if with_message else call(value)
            if type(value) in _SPECIAL:
                if isinstance(value, GeneratorType):
                    return Several(self._rest(value, place, message), wishes)
                wishes = value if wishes is None else wishes.then(value)
                value = value.body
            if value is None:
                return None
        return value if wishes is None else wishes.then(value)

    def _rest(self, value: Any, place: int, message: Message | None) -> Generator[Any, None, None]:
        """Yield every value that the jobs from `place` on make of this one."""
        if isinstance(value, GeneratorType):
            with closing(value):
                for each in value:
                    yield from self._rest(each, place, message)
        elif isinstance(value, Result):
            if value.body is not None:
                yield from map(value.then, self._rest(value.body, place, message))
        elif value is not None and place == len(self._calls):
            yield value
        elif value is not None:
            call, with_message = self._calls[place]
            later = call(value, message=message) if with_message else call(value)
            yield from self._rest(later, place + 1, message)

    def apply_params(self, params: Mapping[str, Any]) -> None:
        """Pass other parameters to the calls from now on; on `ParamsError` the old ones stay."""
        self._params = check_params(self._jobs, params)
        if self._shared is not None:
            self._shared.use_params(params)
        self._bind()

    def teardown(self) -> None:
        """Call each `teardown`, the last job's first; raises the first failure after all were called."""
        failure: BaseException | None = None
        while self._instances:
            teardown = getattr(self._instances.pop(), "teardown", None)
            try:
                if teardown is not None:
                    teardown()
            except BaseException as exc:  # noqa: BLE001 - the other teardowns come first
                failure = failure or exc
        if failure is not None:
            raise failure

    def _make(self, job: Job, setup_arguments: frozenset[str]) -> Callable[..., Any]:
        instance = job.target()
        setup = getattr(instance, "setup", None)
        if setup is not None:
            setup(**self._arguments(job, setup_arguments))
        self._instances.append(instance)
        handle: Callable[..., Any] = instance.handle
        return handle

    def _link(self, job: Job, times: int) -> Callable[..., Any]:
        """Return a call of a shared object; where a chain has it several times, each is a link of its own."""
        return functools.partial(
            self._calls_of(job).link, job.shared, job.spec if times == 1 else f"{job.spec}#{times}"
        )

    def _bind(self) -> None:
        """Bind every argument but body and message in advance, so that a call costs next to nothing."""
        calls = []
        for job, function in zip(self._jobs, self._functions, strict=True):
            bound = self._arguments(job, job.arguments)
            calls.append((functools.partial(function, **bound) if bound else function, "message" in job.arguments))
        self._calls = tuple(calls)

    def _arguments(self, job: Job, names: frozenset[str]) -> dict[str, Any]:
        known = {"log": self._log, "params": self._params.get(job.spec)}
        given = {name: known[name] for name in known if name in names}
        proxies = names - known.keys() - {"message"}
        if proxies:
            given |= {name: self._calls_of(job).proxy(name) for name in proxies}
        return given

    def _calls_of(self, job: Job) -> SharedCaller:
        if self._shared is None:
            what = "uses a shared object that was not there when the code was checked (did the check take too long?)"
            raise RuntimeError(f'job "{job.spec}" {what}: check it again with mqworker restart')
        return self._shared
