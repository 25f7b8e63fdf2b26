"""The jobs of a stage, ready to run: turns a decoded body into a result.

Lives in one Consumer (or code check, or user's test); only one thread uses it at a time. Owns the instances of the
user's job classes. `setup` is called first, then `run` for each message and `apply_params` between messages, then
`teardown`. A Consumer that works on several messages at once has one chain for the process, which owns what the
messages share, and a `local` chain for each message that it can work on at the same time; jobs that are `async def` are
run by `async_chain`. Whatever the user's code raises is raised to the caller; `ParamsError` is raised before anything
is changed.

Longer than most modules, because the chain of the process and those of its messages share their instances.
"""

import functools
import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Protocol

from mqworker.jobs.loading import Job
from mqworker.jobs.message import Message
from mqworker.jobs.params import validate
from mqworker.jobs.result import Result, Several


class SharedCaller(Protocol):
    """Makes the calls of objects that all Consumers share."""

    def link(self, name: str, link: str, value: Any) -> Any:
        """Call `handle` of an object, as a link of the chain."""

    def proxy(self, name: str) -> Any:
        """Return what a handler receives in an argument with the object's name."""

    def use_params(self, params: Mapping[str, Any]) -> None:
        """Pass these parameters with all further calls."""


class ProgramRunner(Protocol):
    """Runs the programs of a chain."""

    def setup(self) -> None:
        """Prepare for running programs."""

    def teardown(self) -> None:
        """Release what `setup` has prepared."""

    def make(self, job: Job) -> Callable[..., Any]:
        """Return the function that runs the program of a job."""


Aside = Callable[..., Awaitable[Any]]  # calls a plain function with arguments, in a thread beside the loop
Passing = Callable[[Callable[..., Any], Any, Message | None, float | None], Any]
Calls = tuple[tuple[Callable[..., Any], Passing | None], ...]  # what to call, and how, unless with the body alone

_SPECIAL = frozenset((GeneratorType, Result, CoroutineType, AsyncGeneratorType))
_PER_MESSAGE = frozenset(("message", "deadline"))


def check_params(jobs: Sequence[Job], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return each job's own parameters by its spec; raises `ParamsError`.

    Jobs that have no `Params` and never take parameters do not count: only what a job reads can be wrong. The
    parameters that are read by the shared objects of these jobs are checked too.
    """
    readers = _readers(jobs)
    return dict(zip(readers, validate(params, params_types(jobs)), strict=False))


def params_types(jobs: Sequence[Job]) -> list[type | None]:
    """Return the types that the parameters must match; None stands for a job that takes any mapping."""
    return [*_readers(jobs).values(), *(kind for job in jobs for kind in job.shared_params)]


def _readers(jobs: Sequence[Job]) -> dict[str, type | None]:
    return {job.spec: job.params_type for job in jobs if job.params_type is not None or job.takes_params}


def kind_of(jobs: Sequence[Job], concurrency: int) -> str:
    """Return how a Consumer works on messages with these jobs: serially, in threads, or in tasks of a loop."""
    if any(job.is_async for job in jobs):
        return "tasks"
    return "threads" if concurrency > 1 else "serial"


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
        """`log` is passed to jobs as `log`; without it, they get a logger named after the stage.

        `shared` makes the calls of shared objects, `programs` runs programs.
        """
        self.jobs = tuple(jobs)
        self._params = check_params(jobs, params)
        self._log = log or logging.getLogger(f"mqworker.job.{stage}" if stage else "mqworker.job")
        self._functions: list[Callable[..., Any]] = []  # for each job: the function, or the bound `handle`
        self._instances: list[Any] = []  # the instances that were set up
        self._process: Chain | None = None  # the chain that owns what is made once for the process
        self._aside: Aside | None = None
        self._shared = shared
        if shared is not None:
            shared.use_params(params)
        self._programs = programs
        self.calls: Calls  # filled by `setup`
        self.takes_message = any("message" in job.arguments for job in jobs)
        self.takes_deadline = any("deadline" in job.arguments for job in jobs)
        first = self.jobs[0] if self.jobs else None
        # the object and the link with which the chain begins: its calls for several messages may be made together
        self.first_link = (first.shared, first.spec) if first is not None and first.shared else None
        self.takes_bytes = first is not None and first.program is not None  # whatever the content type is

    def local(
        self,
        params: Mapping[str, Any],
        shared: SharedCaller | None,
        programs: ProgramRunner | None,
        aside: Aside | None = None,
    ) -> "Chain":
        """Return a chain for one message at a time, not set up yet, with the instances of this chain.

        Each thread owns the instances that it makes for itself. `aside` calls shared objects for jobs that are `async
        def`.
        """
        local = Chain(self.jobs, params, log=self._log, shared=shared, programs=programs)
        local._process, local._aside = self, aside
        return local

    def setup(self, *, common: bool = True, own: bool = True) -> None:
        """Make the instances and call their `setup`; after a failure, tear down those made so far.

        `common`: make what exists once for the process. `own`: make what each thread has for itself; then the chain can
        run.
        """
        try:
            for waiting in self._make_all(common=common, own=own):
                _refuse(waiting)
        except BaseException:
            self.teardown()
            raise
        if own:
            self._bind()

    async def setup_common(self) -> None:
        """Make what exists once for the process, where some `setup` may be `async def`."""
        try:
            for waiting in self._make_all(common=True, own=False):
                await waiting
        except BaseException:
            await self.teardown_async()
            raise

    def run(self, body: Any, message: Message | None = None, deadline: float | None = None) -> Any:
        """Return the last job's result, or None as soon as a job returns None: the message is dropped.

        When a job yields, each value goes through the rest of the chain, and the result is a `Several`, which may turn
        out to be empty. `message` may be None unless `takes_message`.
        """
        calls = self.calls
        value, wishes = body, None
        for place, (call, passing) in enumerate(calls, 1):
            value = call(value) if passing is None else passing(call, value, message, deadline)
            if type(value) in _SPECIAL:
                if isinstance(value, GeneratorType):
                    return Several(_rest(calls, value, place, message, deadline), wishes)
                if not isinstance(value, Result):
                    raise hidden(value, self.jobs[place - 1].spec)
                wishes = value if wishes is None else wishes.then(value)
                value = value.body
            if value is None:
                return None
        return value if wishes is None else wishes.then(value)

    def apply_params(self, params: Mapping[str, Any]) -> None:
        """Pass these parameters to all further calls; on `ParamsError` the old ones stay."""
        self._params = check_params(self.jobs, params)
        if self._shared is not None:
            self._shared.use_params(params)
        self._bind()

    def teardown(self) -> None:
        """Call each `teardown`, the last job's first; raises the first failure after all have been called."""
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

    async def teardown_async(self) -> None:
        """Like `teardown`, where some may be `async def`."""
        failure: BaseException | None = None
        while self._instances:
            teardown = getattr(self._instances.pop(), "teardown", None)
            try:
                made = teardown() if teardown is not None else None
                if inspect.isawaitable(made):
                    await made
            except BaseException as exc:  # noqa: BLE001 - the other teardowns come first
                failure = failure or exc
        if failure is not None:
            raise failure

    def _make_all(self, *, common: bool, own: bool) -> Iterator[Awaitable[Any]]:
        """Make what is called for each job: what exists once for the process, and what each thread has for itself.

        Yields what each `async def` `setup` has returned, which the caller must await.
        """
        if own and self._programs is not None:
            self._programs.setup()
            self._instances.append(self._programs)
        links: Counter[str] = Counter()
        for place, job in enumerate(self.jobs):
            mine = common if job.setup_arguments is not None and not job.for_each_thread else own
            function: Callable[..., Any] = job.target
            if not mine:
                function = self._process.calls_of(place) if self._process is not None else job.target
            elif job.shared:
                links[job.spec] += 1
                function = self._link(job, links[job.spec])
            elif job.program is not None:
                assert self._programs is not None, "a chain with a program is made with a runner"
                function = self._programs.make(job)
            elif job.setup_arguments is not None:
                instance = job.target()
                setup = getattr(instance, "setup", None)
                if setup is not None:
                    made = setup(**self._arguments(job, job.setup_arguments))
                    if inspect.isawaitable(made):
                        yield made
                self._instances.append(instance)
                function = instance.handle
            self._functions.append(function)

    def calls_of(self, place: int) -> Callable[..., Any]:
        """Return what is called for the job at this place."""
        return self._functions[place]

    def _link(self, job: Job, times: int) -> Callable[..., Any]:
        """Return a call of a shared object; if a chain has it several times, each is a separate link."""
        return functools.partial(
            self._calls_of(job).link, job.shared, job.spec if times == 1 else f"{job.spec}#{times}"
        )

    def _bind(self) -> None:
        """Bind every argument that is the same for all messages in advance, so that a call costs next to nothing."""
        calls = []
        for job, function in zip(self.jobs, self._functions, strict=True):
            bound = self._arguments(job, job.arguments)
            passing = _PASSING[job.arguments & _PER_MESSAGE]
            if job.defaults_deadline and passing is not None:
                passing = functools.partial(_or_default, passing, _PASSING[job.arguments & _PER_MESSAGE - {"deadline"}])
            calls.append((functools.partial(function, **bound) if bound else function, passing))
        self.calls = tuple(calls)

    def _arguments(self, job: Job, names: frozenset[str]) -> dict[str, Any]:
        known = {"log": self._log, "params": self._params.get(job.spec)}
        given = {name: known[name] for name in known if name in names}
        proxies = names - known.keys() - _PER_MESSAGE
        if proxies:
            given |= {name: self._proxy(job, name) for name in proxies}
        return given

    def _proxy(self, job: Job, name: str) -> Any:
        proxy = self._calls_of(job).proxy(name)
        return AsyncProxy(proxy, self._aside) if job.is_async and self._aside is not None else proxy

    def _calls_of(self, job: Job) -> SharedCaller:
        if self._shared is None:
            what = "uses a shared object that was not there when the code was checked (did the check take too long?)"
            raise RuntimeError(f'job "{job.spec}" {what}: check it again with mqworker restart')
        return self._shared


class AsyncProxy:
    """A shared object as an `async def` handler sees it: `await proxy.method(...)` calls the method in its process."""

    __slots__ = ("_aside", "_proxy")

    def __init__(self, proxy: Any, aside: Aside) -> None:
        self._proxy = proxy
        self._aside = aside

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return functools.partial(self._aside, getattr(self._proxy, name))

    def __repr__(self) -> str:
        return repr(self._proxy)


def _refuse(_made: Any) -> None:
    raise TypeError("its setup returned a coroutine, but its handle is not async: write a plain setup")


def hidden(value: Any, spec: str) -> TypeError:
    """Return the error for a job that is `async def` although its signature does not show it."""
    if isinstance(value, CoroutineType):
        value.close()  # otherwise Python warns that it was never awaited
    what = "a coroutine" if isinstance(value, CoroutineType) else "an async generator"
    return TypeError(f'job "{spec}" returned {what}: something around it hides that it is async; write an async def')


def _rest(
    calls: Calls, value: Any, place: int, message: Message | None, deadline: float | None
) -> Generator[Any, None, None]:
    """Yield every value that the jobs from `place` on make of this one."""
    if isinstance(value, GeneratorType):
        with closing(value):
            for each in value:
                yield from _rest(calls, each, place, message, deadline)
    elif isinstance(value, Result):
        if value.body is not None:
            yield from map(value.then, _rest(calls, value.body, place, message, deadline))
    elif value is not None and place == len(calls):
        yield value
    elif value is not None:
        call, passing = calls[place]
        later = call(value) if passing is None else passing(call, value, message, deadline)
        yield from _rest(calls, later, place + 1, message, deadline)


def _with_message(call: Callable[..., Any], value: Any, message: Message | None, _deadline: float | None) -> Any:
    return call(value, message=message)


def _with_deadline(call: Callable[..., Any], value: Any, _message: Message | None, deadline: float | None) -> Any:
    return call(value, deadline=deadline)


def _with_both(call: Callable[..., Any], value: Any, message: Message | None, deadline: float | None) -> Any:
    return call(value, message=message, deadline=deadline)


def _or_default(
    passing: Passing, without: Passing | None, call: Callable[..., Any], value: Any, message: Message | None,
    deadline: float | None,
) -> Any:  # fmt: skip
    """Use the handler's own default if there is no deadline."""
    if deadline is not None:
        return passing(call, value, message, deadline)
    return call(value) if without is None else without(call, value, message, None)


_PASSING: Mapping[frozenset[str], Passing | None] = {
    frozenset(): None,
    frozenset(("message",)): _with_message,
    frozenset(("deadline",)): _with_deadline,
    _PER_MESSAGE: _with_both,
}
