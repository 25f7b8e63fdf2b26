"""Questions to a Producer: each caller gets the answer to its own question, or learns why there is none."""

import asyncio

import pytest

from mqworker.control.errors import ControlError
from mqworker.ipc.producer_messages import AskHeld, Held
from mqworker.service.producer_requests import ProducerRequests
from tests.support.loop import on_loop


@on_loop
async def test_answers_find_their_requests():
    """In whatever order they come; an answer that nobody waits for is dropped."""
    sent: list[AskHeld] = []
    questions = ProducerRequests(sent.append)
    first, second = (asyncio.create_task(questions.ask(AskHeld(0, skip))) for skip in ("", "7"))
    await asyncio.sleep(0)
    assert [question.skip for question in sent] == ["", "7"]
    for number in (sent[1].number, sent[0].number, 99, sent[0].number):
        questions.answered(Held(number, total=number))
    assert [(await task).total for task in (first, second)] == [question.number for question in sent]


@on_loop
async def test_a_producer_that_dies_answers_nobody():
    """Who waits is told to try again: the message may be gone by then, or wait still."""
    questions = ProducerRequests(lambda _question: None)
    asking = asyncio.create_task(questions.ask(AskHeld(0, "7")))
    await asyncio.sleep(0)
    questions.producer_died()
    with pytest.raises(ControlError, match="try again") as refused:
        await asking
    assert refused.value.kind == "busy"
    questions.producer_died()
