"""Which sends may be with the broker at the same time, and which are refused while it confirms nothing."""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from typing import Any

import pytest

from mqworker.control.errors import ControlError
from mqworker.http import send_places
from mqworker.http.places import CALLS, TCP_STREAMS
from mqworker.http.problems import Problem
from mqworker.http.send_places import (
    LINES_SENDS,
    PATIENCE,
    TCP_SENDS,
    UNANSWERED,
    SendPlaces,
    SendRule,
    Turn,
    patience_for,
)
from mqworker.http.sending import SEND_DEADLINE
from tests.support.waiting import AMPLE, wait_for

MOST = 3


class Sends:
    """Sends to stages at times that a test chooses."""

    def __init__(self) -> None:
        self.rule = SendRule(MOST)
        self.now = 100.0

    def turn(self, stage: str) -> Turn:
        return self.rule.turn(stage, self.now)

    def begin(self, stage: str, count: int = 1, patience: float = PATIENCE) -> list[tuple[str, float, float]]:
        """Begin sends, which may; returns what `end` takes."""
        begun = []
        for _ in range(count):
            assert self.turn(stage) is Turn.BEGIN
            self.rule.begin(stage, self.now, patience)
            begun.append((stage, self.now, patience))
        return begun

    def end(self, begun: list[tuple[str, float, float]], *, answered: bool) -> None:
        while begun:
            self.rule.end(*begun.pop(), self.now, answered=answered)


def test_while_the_broker_confirms_sends_wait_for_each_other():
    """So many are with it at a time, of all stages together, and none is refused, however long each of them takes."""
    sends = Sends()
    a, b = sends.begin("a", 2), sends.begin("b")
    for _ in range(10):
        assert {sends.turn(stage) for stage in "abc"} == {Turn.WAIT}
        sends.now += PATIENCE * 0.9
        sends.end(a[:1], answered=True)
        a = a[1:] + sends.begin("a")
        sends.end(b, answered=True)
        b = sends.begin("b")


def test_the_sends_of_a_silent_stage_occupy_no_place():
    """As soon as a stage has had no answer for a while its others are refused, and those to other stages begin."""
    sends = Sends()
    stuck = sends.begin("a", MOST)
    assert sends.rule.changes(sends.now) == sends.now + PATIENCE
    sends.now += PATIENCE * 0.9
    assert (sends.turn("a"), sends.turn("b")) == (Turn.WAIT, Turn.WAIT)
    sends.now = sends.rule.changes(sends.now)
    assert sends.turn("a") is Turn.REFUSED
    others = sends.begin("b", MOST)
    assert sends.turn("b") is Turn.WAIT
    sends.end(stuck[:1], answered=True)
    assert sends.turn("a") is Turn.WAIT, "it is not silent any more, and its sends occupy places again"
    sends.end(others, answered=True)
    assert sends.turn("b") is Turn.BEGIN


def test_after_a_send_in_vain_one_at_a_time_tries():
    """Until one is answered: then all go on."""
    sends = Sends()
    stuck = sends.begin("a")
    sends.now += 10
    sends.end(stuck, answered=False)
    for _ in range(3):
        tried = sends.begin("a")
        assert (sends.turn("a"), sends.turn("b")) == (Turn.REFUSED, Turn.BEGIN)
        sends.now += 10
        sends.end(tried, answered=False)
    tried = sends.begin("a")
    sends.end(tried, answered=True)
    sends.begin("a", MOST)


def test_a_large_send_may_take_longer():
    """A second more for each MiB, and for each thousand messages, as may a small one of its stage beside it."""
    sends = Sends()
    sends.begin("a", patience=patience_for(4 << 20, 5000))
    sends.begin("a")
    sends.now += PATIENCE + 8.9
    assert sends.turn("a") is Turn.BEGIN
    sends.now += 0.2
    assert sends.turn("a") is Turn.REFUSED


def test_however_many_stages_are_silent_others_have_their_places():
    """Those that try them are bounded, and leave as many threads as one listener has for sends to other stages."""
    sends = Sends()
    for stage in "abcdef":
        stuck = sends.begin(stage)
        sends.now += 10
        sends.end(stuck, answered=False)
    for stage in "abc":
        sends.begin(stage)
    assert {sends.turn(stage) for stage in "abcdef"} == {Turn.REFUSED}
    sends.begin("z", MOST)
    assert sends.turn("z") is Turn.WAIT
    sends.now += PATIENCE
    assert sends.turn("y") is Turn.REFUSED, "no thread is left, and nothing is answered"


def test_a_silent_stage_is_tried_however_busy_the_others_are():
    """Sends to stages that are answered occupy none of the threads that are for trying."""
    sends = Sends()
    stuck = sends.begin("a")
    sends.end(stuck, answered=False)
    sends.begin("b", MOST)
    sends.end(sends.begin("a"), answered=True)


def test_those_that_wait_begin_in_their_order():
    """A send that has just come does not overtake one that waits for a place."""
    places, begun, ends = SendPlaces(1), [], [threading.Event() for _ in range(5)]

    def send(number: int) -> None:
        with places.sending("a", AMPLE):
            begun.append(number)
            assert ends[number].wait(AMPLE)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(5)]
    for number, thread in enumerate(threads):
        thread.start()
        wait_for(lambda n=number: len(begun) + len(places._waiting) == n + 1, AMPLE, "it to begin or to wait")
    for number, end in enumerate(ends):
        wait_for(lambda n=number: len(begun) == n + 1, AMPLE, "the next one to begin")
        end.set()
    for thread in threads:
        thread.join(AMPLE)
    assert begun == sorted(begun)


def test_a_place_is_free_as_soon_as_any_send_makes_its_stage_silent():
    """Also one that came after those that wait had looked how long they would have to."""
    places, begun, end = SendPlaces(2), [], threading.Event()

    def send(stage: str, patience: float) -> None:
        with places.sending(stage, patience):
            begun.append(stage)
            assert end.wait(AMPLE)

    patient, ending = places.sending("a", AMPLE), places.sending("a", AMPLE)
    threads = [threading.Thread(target=send, args=each) for each in (("b", 0.2), ("c", AMPLE))]
    with patient:
        with ending:
            for number, thread in enumerate(threads, 1):
                thread.start()
                wait_for(lambda n=number: len(places._waiting) == n, AMPLE, "it to wait")
        wait_for(lambda: begun == ["b", "c"], AMPLE / 2, "b to be silent, and c to begin")
        end.set()
        for thread in threads:
            thread.join(AMPLE)


def test_nothing_is_remembered_of_stages_that_are_answered():
    """What can be asked for is unbounded; what is kept is not."""
    sends = Sends()
    for stage in range(100):
        sends.end(sends.begin(str(stage)), answered=True)
    assert sends.rule._stages == {}


@pytest.mark.parametrize("kind", UNANSWERED)
def test_a_stage_is_silent_only_when_no_send_is_answered(kind):
    """One send without an answer proves nothing while others have theirs; alone it does, until the next has one."""
    places, lost = SendPlaces(2), ControlError(kind, "no answer")

    def sending() -> contextlib.AbstractContextManager[None]:
        return places.sending("a", PATIENCE)

    slow, other = sending(), sending()
    slow.__enter__()
    with sending():
        pass
    assert not slow.__exit__(ControlError, lost, None)
    with sending(), sending():
        pass
    for error in (ControlError("refused", "no"), lost):
        with contextlib.suppress(ControlError), sending():
            raise error
    other.__enter__()
    with pytest.raises(Problem, match="confirms nothing of what others are sending"), sending():
        pass
    other.__exit__(None, None, None)
    with sending(), sending():
        pass


def test_a_queue_that_confirms_nothing_holds_up_no_other_call(service, monkeypatch):
    """Its sends are refused long before the first ones have their answer; commands and other stages' sends go on."""
    monkeypatch.setattr(send_places, "PATIENCE", 1.0)
    loop, told, most = service.loop, [], {"send": TCP_SENDS, "send_many": LINES_SENDS}
    answers = [asyncio.run_coroutine_threadsafe(_future(), loop).result(AMPLE) for _ in range(2)]

    async def later(answer: asyncio.Future) -> Any:
        return await asyncio.shield(answer)

    def admin(asked: dict) -> Any:
        return later(answers[bool(told)]) if asked["queue"] == "alpha.in" else [""]

    service.admin["send"] = service.admin["send_many"] = admin

    def send(number: int) -> None:
        told.append(service.ask("POST", f"/api/v1/stages/alpha/messages{'?each=line' if number % 2 else ''}", {}))

    sends = [threading.Thread(target=send, args=(number,)) for number in range(4 * (CALLS + TCP_STREAMS))]
    for each in sends:
        each.start()
    wait_for(lambda: Counter(verb for verb, *_ in service.asked) == most, AMPLE, "the first to wait")
    began = time.monotonic()
    assert service.ask("PUT", "/api/v1/stages/alpha/listening?wait=5", {"enabled": False}).status == 200
    for query in ("", "?each=line"):
        assert service.ask("POST", f"/api/v1/stages/beta/messages{query}", {}).status in (202, 200)
    wait_for(lambda: len(told) >= len(sends) - sum(most.values()), AMPLE, "the others to be refused")
    assert time.monotonic() - began < SEND_DEADLINE / 2
    assert {(each.status, each.headers["retry-after"], each.json["kind"]) for each in told} == {(503, "2", "full")}

    loop.call_soon_threadsafe(answers[0].set_exception, ControlError("deadline", "the broker did not answer"))
    for each in sends:
        each.join(AMPLE)
    assert [each.status for each in told].count(504) == sum(most.values())
    del told[1:]
    asked = len(service.asked)
    trying = threading.Thread(target=send, args=(0,))
    trying.start()
    wait_for(lambda: len(service.asked) > asked, AMPLE, "one to try it")
    assert service.ask("POST", "/api/v1/stages/alpha/messages", {}).status == 503
    loop.call_soon_threadsafe(answers[1].set_result, None)
    trying.join(AMPLE)
    assert service.ask("POST", "/api/v1/stages/alpha/messages", {}).status == 202


async def _future() -> asyncio.Future:
    return asyncio.get_running_loop().create_future()


def test_sends_are_not_refused_while_the_broker_confirms(service):
    """However many send, and however long they queue, none is refused at a broker that confirms one after another."""
    turn = asyncio.Lock()

    async def slowly() -> None:
        async with turn:
            await asyncio.sleep(0.1)

    service.admin["send"] = lambda _arguments: slowly()
    statuses: list[int] = []

    def send() -> None:
        statuses.append(service.ask_unix("POST", "/api/v1/stages/alpha/messages", {}).status)

    sends = [threading.Thread(target=send) for _ in range(30)]
    for each in sends:
        each.start()
    for each in sends:
        each.join(AMPLE)
    assert statuses == [202] * len(sends)
