"""Tests that are coroutines."""

import asyncio
import functools
from collections.abc import Awaitable, Callable

LIMIT = 180  # seconds; for what hangs


def on_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on a new event loop, with a time limit."""

    @functools.wraps(test)
    def run(*args, **kwargs) -> None:
        async def limited() -> None:
            async with asyncio.timeout(LIMIT):
                await test(*args, **kwargs)

        asyncio.run(limited())

    return run
