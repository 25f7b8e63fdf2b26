"""The records that cross."""

import msgspec
import pytest

from mqworker.ipc.generation import CodeCopy
from mqworker.shared_state import messages
from mqworker.shared_state.messages import (
    Answers,
    Call,
    CallAnswer,
    CallEntry,
    Caller,
    Calls,
    Charge,
    ChargeEnded,
    Entry,
    ParamsEntry,
    Pause,
    Received,
    ResetEntry,
    ResetState,
    Resume,
    SetLevel,
    SharedEnded,
    SharedOrder,
    SharedReport,
    SharedReset,
    SharedSpec,
    SharedStatus,
    SharedUnfit,
    StopSharing,
    TakeSnapshot,
    TickEntry,
    Words,
    WordsEntry,
)

K = b"k" * 16
COUNTS = dict.fromkeys(messages.COUNTS, 1)
EXAMPLES = [
    (
        SharedSpec("n", "m:C", "/r", CodeCopy("d", "/r"), "d", "/s", 20, charges=(Charge("s", K, K, "why"),)),
        SharedSpec,
    ),
    *((order, SharedOrder) for order in (Pause(), Resume(), TakeSnapshot(), ResetState(), StopSharing(), SetLevel(10))),
    (SharedStatus("n", 1, "serving", "d", COUNTS, 1, 1, 0, {"add": 1}, described={"a": [1]}), SharedReport),
    (SharedUnfit("code", "why", "traceback"), SharedReport),
    (SharedEnded(), SharedReport),
    (SharedReset("why"), SharedReport),
    (ChargeEnded(Charge("s", K, K, "why")), SharedReport),
    (Caller("s", b"{}"), Received),
    (Calls([Call(1, K, True, K, "add", b"\x90")]), Received),
    (Words("s", K, K + K), Received),
    (Answers([CallAnswer(1, b"\1")]), Answers),
    (ParamsEntry(1, b"{}"), Entry),
    (CallEntry("s", K, K, "", b"\x90", 0, 1.5, b"\1"), Entry),
    (WordsEntry("s", K, b"", 1.5), Entry),
    (TickEntry(1.5, b"\1"), Entry),
    (ResetEntry(1.5), Entry),
]  # fmt: skip


@pytest.mark.parametrize(("record", "kind"), EXAMPLES, ids=[type(record).__name__ for record, _ in EXAMPLES])
def test_a_record_arrives_as_it_was(record, kind):
    """Each kind, under the type that its receiver decodes."""
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=kind) == record


def test_every_record_has_an_example():
    """None is left out above; LogEvent has its own test."""
    known = {kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)}
    inside = {messages.Times, CodeCopy, Charge, Call, CallAnswer, messages.LogEvent}
    assert known - inside == {type(record) for record, _ in EXAMPLES}
