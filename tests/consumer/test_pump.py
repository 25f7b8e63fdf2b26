"""The pump of a Consumer with seats, with real pipes and words; what works on messages only notes what it is told."""

import os
import time

import pytest

from mqworker.config.model import BrokerConfig, InputConfig, StageConfig
from mqworker.consumer.hatch import PIECE, Hatch
from mqworker.consumer.pump import LanePump
from mqworker.consumer.register import InHandRegister
from mqworker.consumer.seats import Finished, Setting
from mqworker.ipc.consumer_messages import Item, Outcomes, Piece, Stack
from mqworker.ipc.generation import Generation
from mqworker.ipc.stage_spec import StageSpec

SPEC = StageSpec("svc", "s", StageConfig(input=InputConfig(queue="in"), jobs=("a:b",)), BrokerConfig(), "", "", 1.0)


class Crew:
    """Cannot tell where anything is."""

    over = 0.0
    has_loop = True

    def __init__(self, words):
        self.words = words

    def beat(self, now):
        self.words.pulse = now

    def where(self, work):
        raise LookupError(work)

    def where_loop(self):
        raise LookupError


@pytest.fixture
def pump(tmp_path):
    """A pump, its words, and what it sends with the pulse at that time; two messages are in hand since long ago."""
    words = InHandRegister(tmp_path / "s.slots", 2).seats(0)
    reading, writing = os.pipe()
    hatch = Hatch()
    sent = []

    def send(uplink):
        sent.append((uplink, words.pulse))
        time.sleep(0.01)
        if type(uplink) is Piece:
            hatch.take(uplink)

    made = LanePump(SPEC, Generation(1, 1, ["a:b"], None, b"{}"), None, hatch, writing, words, send)
    made._crew = Crew(words)
    items = [Item(seq, b"\0\0", b"1", False, "", "in") for seq in (1, 2)]
    made.works = made._table.take(items, Setting(1, b"{}", 0.0, 1.0))
    for work in made.works:
        words.slots[work.seat].begin(work.item.seq, b"f" * 32, time.monotonic() - 60.0)
    yield made, words, sent
    hatch.close()
    os.close(reading)
    os.close(writing)


def test_the_pulse_goes_on_while_a_large_result_is_sent(pump):
    """However slowly its Producer reads: that is no reason to think that nothing in the Consumer gets on."""
    made, words, sent = pump
    made._frame([Finished(made.works[0], b"\x90", [b"x" * (2 * PIECE + 1)], out_of_memory=False)], 1)
    assert [type(each) for each, _ in sent] == [Piece, Piece, Piece, Outcomes]
    pulses = [pulse for _, pulse in sent] + [words.pulse]
    assert sorted(set(pulses)) == pulses


def test_where_a_message_is_need_not_be_known(pump):
    """What cannot be told is "", and the Consumer lives on; so is the loop when it is blocked."""
    made, words, sent = pump
    words.run(1, time.monotonic() - 1.0)
    made._look(time.monotonic())
    assert [each for each, _ in sent] == [Stack(1, ""), Stack(2, "")]
