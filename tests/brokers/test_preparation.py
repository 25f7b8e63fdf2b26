"""What publications wait for before they are sent: a delay queue that was just made counts against no deadline."""

import asyncio

import pytest

from mqworker.brokers.base import Publication
from mqworker.brokers.rabbitmq import destinations
from mqworker.brokers.rabbitmq.destinations import Pending, Preparation
from tests.support.waiting import AMPLE, until


class Broker:
    """Answers of `ensure_queue`: whether the queue did not exist before."""

    def __init__(self, *made: bool) -> None:
        self.made = list(made)
        self.usable = True

    async def ensure_queue(self, *_: object) -> object:
        return type("Found", (), {"made": self.made.pop(0)})


@pytest.fixture
def broker(monkeypatch):
    made = Broker(True, False)
    monkeypatch.setattr(destinations, "ensure_queue", made.ensure_queue)
    monkeypatch.setattr(destinations, "queue_arguments", lambda *_: {})
    monkeypatch.setattr(destinations, "YOUNG", 0.3)
    return made


def test_the_time_in_which_a_queue_is_young_counts_against_no_deadline(broker):
    """Its publications are sent when that is over, and their time begins then."""

    async def main() -> None:
        loop, sent = asyncio.get_running_loop(), list[Pending]()
        preparation = Preparation("in", sent.append, lambda *_: None, lambda: None)
        began = loop.time()
        preparation.wait_for(4, broker, Pending(1, Publication("", "in", b"", b"", delay=4), began))
        assert preparation.oldest == [began]
        await until(lambda: not broker.made[1:], AMPLE, "the queue to be made")
        assert preparation.oldest == []
        await until(lambda: sent, AMPLE, "the publication to be sent")
        assert sent[0].since >= began + 0.3
        assert 4 in preparation.ready

    asyncio.run(main())


def test_a_queue_is_young_for_the_next_channel_too(broker):
    """It was made for a channel that has ended meanwhile, and is found by the next one."""

    async def main() -> None:
        loop, sent = asyncio.get_running_loop(), list[Pending]()
        preparation = Preparation("in", sent.append, lambda *_: None, lambda: None)
        publication, began = Publication("", "in", b"", b"", delay=4), loop.time()
        preparation.wait_for(4, broker, Pending(1, publication, began))
        await until(lambda: not broker.made[1:], AMPLE, "the queue to be made")
        preparation.cancel()
        assert [pending.publish_id for pending in preparation.abandon()] == [1]
        preparation.wait_for(4, broker, Pending(2, publication, loop.time()))
        await until(lambda: sent, AMPLE, "the publication to be sent")
        assert loop.time() >= began + 0.3

    asyncio.run(main())
