"""What a Producer says to the shared objects of its stage, through a real socket."""

import os
import select

import msgspec
import pytest

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import Delivery
from mqworker.config.model import InputConfig, StageConfig
from mqworker.ipc.frames import FrameParser
from mqworker.producer.entry import Entry, Isolation, Plan
from mqworker.producer.ledger import Ledger
from mqworker.producer.settlement_notices import MOST, SettlementNotices
from mqworker.shared_state.folder import folder_of, listen
from mqworker.shared_state.identity import message_key
from mqworker.shared_state.messages import SettlementNotice
from tests.support.waiting import wait_for


class Object:
    """The listening side."""

    def __init__(self, state_dir, name="counts"):
        folder = folder_of(state_dir, name)
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        self._listening = listen(folder)
        self._peer, self._parser = None, FrameParser()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listening.close()
        if self._peer is not None:
            self._peer.close()

    def accept(self):
        """Return whether somebody speaks."""
        if self._peer is None and select.select([self._listening], [], [], 0)[0]:
            self._peer, _ = self._listening.accept()
            self._peer.setblocking(False)
        return self._peer is not None

    def heard(self):
        """Return what has been said."""
        if self._peer is None:
            self._peer, _ = self._listening.accept()
            self._peer.setblocking(False)
        found = []
        while True:
            try:
                data = self._peer.recv(1 << 16)
            except BlockingIOError:
                return found
            assert data
            found += [msgspec.msgpack.decode(payload, type=SettlementNotice) for payload in self._parser.feed(data)]


def entry(n, **properties):
    block = Properties(**({"message_id": f"id-{n}"} | properties)).encode()
    return Entry(n, Delivery(1, n, block, b"%d" % n, False, "", "in"), Isolation.NONE, 0.0)


def key(n):
    return message_key(f"id-{n}", b"%d" % n)


@pytest.fixture
def notices(tmp_path):
    """SettlementNotices, and what the ledger says is settled."""
    settled = bytearray()
    made = SettlementNotices("s", StageConfig(input=InputConfig(queue="in"), jobs=("a:b",)), str(tmp_path), settled)
    made.use(["counts"])
    yield made, settled
    made.use([])


def test_what_comes_again_is_said_at_once_and_what_is_settled_when_it_is(tmp_path, notices):
    """A retry is said before it can be published; a result is said once the ledger has settled its message."""
    said, settled = notices
    with Object(tmp_path) as there:
        retried, result = entry(1), entry(2)
        said.planned(retried, Plan("retried"))
        said.planned(result, Plan("result"))
        assert there.heard() == [SettlementNotice("s", b"", key(1))]
        settled += result.shared_key
        said.flush()
        assert there.heard() == [SettlementNotice("s", key(2), b"")]


def test_the_ledger_names_what_is_settled_and_only_that():
    """Results and drops, in the order of settling; neither retries nor stages without shared objects."""
    ledger = Ledger()
    for n, outcome, shared in ((1, "dropped", True), (2, "retried", True), (3, "dropped", True), (4, "dropped", False)):
        made = entry(n)
        ledger.delivered(Delivery(1, n, made.properties, made.body, False, "", "in"), 0.0)
        found = ledger.entry(n)
        found.shared_key = key(n) if shared else b""
        ledger.assignments.take(1, 1, 1)
        ledger.finished(n, Plan(outcome), 0.0)
        ledger.assignments.chunk_ended(1, 1)
    assert bytes(ledger.publications.settled_keys) == key(1) + key(3)


def test_an_object_that_is_down_costs_bounded_memory_and_no_time(tmp_path, notices):
    """What it does not hear is dropped; it hears what is said once it is there."""
    said, settled = notices
    for _ in range(5000):
        settled += os.urandom(16) * 64
        said.flush()
    assert said._listeners["counts"]._size <= MOST
    said.use([])
    said.use(["counts"])
    with Object(tmp_path) as there:
        said.planned(entry(1), Plan("dead"))
        assert there.heard() == [SettlementNotice("s", b"", key(1))]


def test_what_was_said_while_an_object_was_down_is_heard_by_its_successor(tmp_path, notices):
    """Before it was there, and when it has ended without a word: the next process hears it first."""
    said, _ = notices
    said.planned(entry(1), Plan("dead"))
    with Object(tmp_path) as there:

        def heard():
            said.flush()
            return there.accept() and there.heard()

        assert wait_for(heard, 10, "the notice") == [SettlementNotice("s", b"", key(1))]
    with Object(tmp_path) as there:
        said.planned(entry(2), Plan("retried"))
        assert there.heard() == [SettlementNotice("s", b"", key(2))]


def test_a_stage_without_shared_objects_says_nothing(notices):
    """Nor is a key computed for its messages."""
    said, _ = notices
    said.use([])
    message = entry(1)
    said.planned(message, Plan("retried"))
    assert message.shared_key == b""
