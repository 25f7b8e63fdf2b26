"""What is done at the end of a turn of a loop: once, in its order, and not a turn later than it has to be."""

import asyncio
import os

from mqworker.ipc.turn_end import STEPS, TurnEnd
from tests.support.loop import on_loop


class Turns:
    """Handles events on the running loop, and notes what happens in which turn of it."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.end = TurnEnd.of(self.loop)
        self.noted = []
        self.reported = []
        self.loop.set_exception_handler(lambda _loop, told: self.reported.append(told["exception"]))

    def event(self, name, *callbacks):
        """Handle one event, which asks for these."""
        self.end.begin()
        for callback in callbacks:
            self.end.soon(callback)
        self.note(f"handled {name}")
        self.end.end()

    def note(self, what):
        self.noted.append(what)

    def done(self):
        self.note("done")


@on_loop
async def test_on_an_idle_loop_it_is_done_as_soon_as_the_event_is_handled():
    """No turn passes, which would ask the kernel for more first; and once is enough for two events in one another."""
    here = Turns()

    def outer():
        here.end.begin()
        here.event("inner", here.done)
        here.note("handled outer")
        here.end.end()
        here.note("returned")

    outer()
    assert here.noted == ["handled inner", "handled outer", "done", "returned"]


@on_loop
async def test_on_a_busy_loop_it_is_done_once_everything_of_the_turn_is_handled():
    """An event behind which others are left in the turn does nothing by itself; the last one does not do it twice."""
    here = Turns()
    asked = []

    def first():
        here.event("first", lambda: asked.append("first"))
        assert not asked

    def second():
        here.event("second", lambda: asked.append("second"))

    here.loop.call_soon(first)
    here.loop.call_soon(second)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asked == ["first", "second"]
    await asyncio.sleep(0.01)
    assert asked == ["first", "second"]


@on_loop
async def test_what_it_asks_for_is_done_in_the_same_turn_where_nothing_else_is_left():
    """Confirms lead to acks, and acks to a write: three steps, and one turn."""
    here = Turns()
    steps = []

    def step():
        steps.append(len(steps))
        if len(steps) < 3:
            here.end.soon(step)

    here.event("confirm", step)
    assert steps == [0, 1, 2]


@on_loop
async def test_what_asks_for_itself_again_and_again_lets_the_loop_hear_others():
    """A chain goes on turn by turn after its first steps: what arrives meanwhile is handled long before its end."""
    here = Turns()
    many, steps, heard, over = 1000, [], [], asyncio.Event()
    reading, writing = os.pipe()
    here.loop.add_reader(reading, lambda: heard.append(len(steps)) or here.loop.remove_reader(reading))

    def step():
        steps.append(len(steps))
        if len(steps) == 1:
            os.write(writing, b"x")
        if len(steps) < many:
            here.end.soon(step)
        else:
            over.set()

    here.event("chain", step)
    assert len(steps) == STEPS
    await over.wait()
    assert steps == list(range(many))
    assert heard[0] <= 2 * STEPS
    os.close(reading)
    os.close(writing)


@on_loop
async def test_outside_of_an_event_it_is_done_in_the_next_turn():
    """A timer or a task goes on first; twice in one turn asks the loop once."""
    here = Turns()
    here.end.soon(here.done)
    here.end.soon(lambda: here.note("in its order"))
    here.note("goes on")
    await asyncio.sleep(0)
    assert here.noted == ["goes on", "done", "in its order"]


@on_loop
async def test_what_raises_is_reported_and_harms_nobody_else():
    """The others are called all the same, and the event is handled as if nothing had been."""
    here = Turns()
    here.event("one", lambda: 1 / 0, here.done)
    assert here.noted == ["handled one", "done"]
    assert [type(error) for error in here.reported] == [ZeroDivisionError]


@on_loop
async def test_each_loop_has_its_own():
    """The one of another loop, which has ended, is another object."""
    here = Turns()
    assert TurnEnd.of(here.loop) is here.end
    other = asyncio.new_event_loop()
    assert TurnEnd.of(other) is not here.end
    other.close()
