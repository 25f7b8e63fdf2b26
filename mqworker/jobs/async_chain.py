"""Runs a chain in which some jobs are `async def`: these run on the loop, the others in a thread beside it.

Lives in a Consumer (or a user's test), on its loop. `aside` calls a plain function in the thread that belongs to the
message. Whatever the user's code raises is raised to the caller, also CancelledError.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from mqworker.jobs.chain import Aside, Calls, Chain, Passing, hidden
from mqworker.jobs.loading import Job
from mqworker.jobs.message import Message
from mqworker.jobs.result import Result

_END = object()


class AsyncSeveral:
    """The results of a chain in which a job has yielded: each is computed on demand, until `aclose`."""

    __slots__ = ("_values", "_wishes")

    def __init__(self, values: AsyncGenerator[Any, None], wishes: Result | None) -> None:
        """`wishes`: the Result of a job before the one that yielded."""
        self._values = values
        self._wishes = wishes

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for value in self._values:
            yield value if self._wishes is None else self._wishes.then(value)

    async def aclose(self) -> None:
        """End the generators."""
        await self._values.aclose()


class AsyncRun:
    """The run of one message through the chain, with the calls that the chain had when the run began."""

    def __init__(
        self,
        chain: Chain,
        message: Message | None,
        deadline: float | None,
        aside: Aside,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` is called before each further job and value, and raises if the run must end."""
        self._calls: Calls = chain.calls
        self._jobs: Sequence[Job] = chain.jobs
        self._message = message
        self._deadline = deadline
        self._aside = aside
        self._check = check

    async def run(self, body: Any) -> Any:
        """Return the last job's result, None as soon as a job returns None, or an `AsyncSeveral`."""
        value, wishes = body, None
        for place in range(len(self._calls)):
            value = await self._call(place, value)
            if isinstance(value, GeneratorType | AsyncGeneratorType):
                return AsyncSeveral(self._rest(value, place + 1), wishes)
            if isinstance(value, Result):
                wishes = value if wishes is None else wishes.then(value)
                value = value.body
            if value is None:
                return None
        return value if wishes is None else wishes.then(value)

    async def _call(self, place: int, value: Any) -> Any:
        self._check()
        (call, passing), job = self._calls[place], self._jobs[place]
        if not job.is_async:
            return await self._aside(self._plainly, job.spec, call, passing, value)
        made = call(value) if passing is None else passing(call, value, self._message, self._deadline)
        return made if isinstance(made, AsyncGeneratorType) else await made

    def _plainly(self, spec: str, call: Any, passing: Passing | None, value: Any) -> Any:
        made = call(value) if passing is None else passing(call, value, self._message, self._deadline)
        if isinstance(made, CoroutineType | AsyncGeneratorType):
            raise hidden(made, spec)
        return made

    async def _rest(self, value: Any, place: int) -> AsyncGenerator[Any, None]:
        """Yield every value that the jobs from `place` on make from this one."""
        if isinstance(value, GeneratorType | AsyncGeneratorType):
            values = value if isinstance(value, AsyncGeneratorType) else self._stepwise(value)
            async with aclosing(values):
                self._check()
                async for each in values:
                    async with aclosing(self._rest(each, place)) as rest:
                        async for made in rest:
                            yield made
                    self._check()
        elif isinstance(value, Result):
            if value.body is not None:
                async with aclosing(self._rest(value.body, place)) as rest:
                    async for made in rest:
                        yield value.then(made)
        elif value is not None and place == len(self._calls):
            yield value
        elif value is not None:
            later = await self._call(place, value)
            async with aclosing(self._rest(later, place + 1)) as rest:
                async for made in rest:
                    yield made

    async def _stepwise(self, values: Any) -> AsyncGenerator[Any, None]:
        """Yield what a plain generator yields; each value is made in the thread beside the loop."""
        try:
            while (value := await self._aside(next, values, _END)) is not _END:
                yield value
        finally:
            await self._aside(values.close)
