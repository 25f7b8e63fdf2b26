"""Large results in pieces."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mqworker.ipc.messages import LARGE, Outcome, Outcomes, ResultMessage, Uplink
from mqworker.ipc.pieces import Pieces, cut, take_out

sizes = st.sampled_from([0, 1, LARGE, LARGE + 1, 2 * LARGE, 3 * LARGE - 1])
bodies = st.builds(lambda size, byte: bytes((byte,)) * size, sizes, st.integers(0, 255))
results = st.lists(st.none() | bodies, max_size=3)


@given(st.lists(results, max_size=4))
def test_results_of_any_size_arrive_unharmed(several):
    """Whatever large and small results follow each other, the Producer has them as they were, and no frame is large."""
    pieces, arrived, sent = Pieces(), [], []
    for seq, values in enumerate(several):
        outcome = Outcome(seq, 0.5, 1, tuple(ResultMessage(b"properties", value) for value in values))
        sent.append(outcome)
        without, large = take_out(outcome)
        for body in large:
            for piece in cut(body):
                packed = msgspec.msgpack.encode(piece)
                assert len(packed) < LARGE + 100
                pieces.add(msgspec.msgpack.decode(packed, type=Uplink))
        packed = msgspec.msgpack.encode(Outcomes([without], 1))
        assert len(packed) < 3 * LARGE + 1000
        outcomes = msgspec.msgpack.decode(packed, type=Uplink)
        arrived += (pieces.put_back(outcomes) if pieces else outcomes).outcomes
    assert arrived == sent
