"""Which message has the loop, and where those are that wait."""

import asyncio
import time

import pytest

from mqworker.consumer import await_stack
from mqworker.consumer.register import InHandRegister
from mqworker.consumer.seats import SeatedMessage, Setting, current
from mqworker.consumer.steps import Hold, Steps, task_factory
from mqworker.ipc.consumer_messages import Item


@pytest.fixture
def seats(tmp_path):
    """The words of a Consumer."""
    return InHandRegister(tmp_path / "s.slots", 4).seats(0)


def work(seq):
    return SeatedMessage(0, Item(seq, b"\0\0", b"", False, "", "in"), Setting(1, b"{}", 0, 0), "in", None)


def run(seats, seq, main, held=None):
    """Run a coroutine as the task of a message, on a loop as a Consumer's."""
    hold = Hold(seats, held or (lambda *_: None))

    async def outer():
        asyncio.get_running_loop().set_task_factory(task_factory(hold))
        current.set(work(seq))
        try:
            return await asyncio.Task(Steps(main(), seq, hold))
        finally:
            current.set(None)

    return asyncio.run(outer())


def test_the_register_names_who_has_the_loop(seats):
    """Also in the tasks that a handler starts; nobody while all wait."""
    seen = []

    async def part():
        seen.append(seats.running)
        await asyncio.sleep(0.01)
        seen.append(seats.running)

    async def main():
        asyncio.get_running_loop().call_later(0.005, lambda: seen.append(seats.running))
        await asyncio.gather(part(), asyncio.create_task(part()))
        return seats.running, seats.running_since

    running, since = run(seats, 7, main)
    assert (running, seats.running) == (7, 0)
    assert abs(time.monotonic() - since) < 5
    assert seen == [7, 7, 0, 7, 7]


def test_a_long_step_is_told_with_its_message(seats):
    """Short ones are not."""
    told = []

    async def main():
        await asyncio.sleep(0.1)
        time.sleep(0.08)  # noqa: ASYNC251 - this is what is looked for
        await asyncio.sleep(0)

    run(seats, 9, main, lambda seq, seconds: told.append((seq, seconds)))
    ((seq, seconds),) = told
    assert seq == 9
    assert 0.08 <= seconds < 5


def test_a_wrapped_coroutine_looks_like_one(seats):
    """Libraries look at attributes of a task's coroutine; errors and cancellation pass through."""

    async def failing():
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            raise LookupError("cancelled") from None

    async def main():
        task = asyncio.create_task(failing(), name="x")
        await asyncio.sleep(0)
        coroutine = task.get_coro()
        assert asyncio.iscoroutine(coroutine)
        assert "failing" in repr(task)
        assert coroutine.cr_frame.f_code.co_name == "failing"
        task.cancel()
        with pytest.raises(LookupError):
            await task
        return "ok"

    assert run(seats, 3, main) == "ok"


def test_a_step_costs_little(seats):
    """A message of 50 ms takes a handful of steps: 20 us each are nothing, nor is ten times as much."""

    async def empty():
        return None

    hold, count = Hold(seats, lambda *_: None), 2000
    began = time.process_time()
    for _ in range(count):
        steps = Steps(empty(), 1, hold)
        with pytest.raises(StopIteration):
            steps.send(None)
    assert (time.process_time() - began) / count < 400e-6


def test_the_frames_along_what_is_awaited():
    """Through coroutines, async generators and what awaits them."""

    async def innermost():
        await asyncio.sleep(10)

    async def generator():
        await innermost()
        yield 1

    async def outer():
        async for _ in generator():
            pass

    async def main():
        task = asyncio.create_task(outer())
        await asyncio.sleep(0)
        names = [frame.f_code.co_name for frame in await_stack.frames(task.get_coro())]
        text = await_stack.text(await_stack.frames(task.get_coro()))
        task.cancel()
        return names, text

    names, text = asyncio.run(main())
    assert names[0] == "outer"
    assert names == ["outer", "generator", "innermost", "sleep"]
    assert "await innermost()" in text
