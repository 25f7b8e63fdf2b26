"""The hatch: large results on their way to a Producer."""

import os
import signal
import threading

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.consumer.hatch import PIECE, PLACES, Hatch
from mqworker.ipc.consumer_messages import LARGE, Outcome, Outcomes, ResultMessage, Uplink
from mqworker.ipc.pieces import take_out
from tests.consumer.test_outbox import Handle
from tests.support.memory import no_more_memory

sizes = st.sampled_from([0, 1, LARGE, LARGE + 1, PIECE, PIECE + 1, 2 * PIECE + 1])
bodies = st.builds(lambda size, byte: bytes((byte,)) * size, sizes, st.integers(0, 255))
results = st.lists(st.none() | bodies, max_size=2)


def both() -> tuple[Hatch, Hatch]:
    """The Producer's hatch and its Consumer's."""
    near = Hatch()
    far = Hatch.__new__(Hatch)
    far.__setstate__([Handle(os.dup(fd)) for fd in (near._fd, near._free)])
    return near, far


@pytest.fixture
def sides():
    """The same, closed in the end."""
    near, far = both()
    yield near, far
    near.close()
    far.close()


def outcome(seq: int, *values: bytes | None) -> Outcome:
    return Outcome(seq, 0.5, 1, tuple(ResultMessage(b"properties", value) for value in values))


def hand_up(near: Hatch, far: Hatch, *sent: Outcome) -> list[Outcome]:
    """Send them in one frame, of which the last may have large results; returns what arrives."""
    outcomes = []
    for each in sent:
        without, large = take_out(each)
        outcomes.append(without)
        for body in large:
            for piece in far.put(body):
                near.take(msgspec.msgpack.decode(msgspec.msgpack.encode(piece), type=Uplink))
    packed = msgspec.msgpack.encode(Outcomes(outcomes, 1))
    assert len(packed) < 3 * LARGE + 1000
    arrived = msgspec.msgpack.decode(packed, type=Uplink)
    return (near.put_back(arrived) if near.used else arrived).outcomes


@given(st.lists(results, max_size=3))
def test_results_of_any_size_arrive_unharmed(several):
    """Whatever large and small results follow each other, the Producer has them as they were, and no frame is large."""
    near, far = both()
    try:
        for seq, values in enumerate(several):
            sent = outcome(seq, *values)
            assert hand_up(near, far, sent) == [sent]
    finally:
        near.close()
        far.close()


def test_a_place_is_filled_again_only_when_it_was_emptied(sides):
    """A Consumer that is faster than its Producer waits for it."""
    near, far = sides
    os.set_blocking(far._free, False)
    body = os.urandom((PLACES + 1) * PIECE)
    pieces = far.put(body)
    first = [next(pieces) for _ in range(PLACES)]
    with pytest.raises(BlockingIOError):
        next(pieces)
    for piece in first:
        near.take(piece)
    assert [piece.size for piece in far.put(body[: PLACES * PIECE])] == [PIECE] * PLACES


def test_who_waits_for_a_place_is_not_disturbed_by_signals(sides):
    """A SIGTERM to the whole group, to which a Consumer is deaf, costs it nothing."""
    near, far = sides
    body, pieces, came = os.urandom((PLACES + 3) * PIECE), [], threading.Semaphore(0)
    handler = signal.signal(signal.SIGUSR1, lambda *_: None)

    def take() -> None:
        for number in range(PLACES + 3):
            came.acquire()
            for _ in range(20):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            near.take(pieces[number])

    taker = threading.Thread(target=take)
    taker.start()
    try:
        for piece in far.put(body):
            pieces.append(piece)
            came.release()
        taker.join(10)
    finally:
        signal.signal(signal.SIGUSR1, handler)
    [arrived] = near.put_back(Outcomes([take_out(outcome(1, body))[0]], 1)).outcomes
    assert arrived == outcome(1, body)


def test_a_result_for_which_the_producer_has_no_memory_fails_its_message(sides):
    """It fails for want of memory, what came in the same frame does not, and the next large result arrives."""
    near, far = sides
    large = outcome(2, b"a", bytes(64 << 20))
    with no_more_memory():
        small, failed = hand_up(near, far, outcome(1, b"small"), large)
    assert small == outcome(1, b"small")
    assert (failed.seq, failed.results, failed.failure.reason) == (2, (), "memory")
    assert failed.failure.message == "the Producer had no memory for its result of 67,108,864 bytes"
    assert hand_up(near, far, large) == [large]


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_result_of_which_a_piece_is_missing_fails_its_message(sides, lost):
    """Whichever piece user code has damaged, none of its bytes are published, and the next large result arrives."""
    near, far = sides
    twins = outcome(1, os.urandom(2 * PIECE), os.urandom(2 * PIECE))  # of one size, so that they could be mistaken
    without, large = take_out(twins)
    for number, piece in enumerate(piece for body in large for piece in far.put(body)):
        if number == lost:
            os.ftruncate(far._fd, 0)
        near.take(piece)
    [failed] = near.put_back(Outcomes([without], 1)).outcomes
    assert (failed.results, failed.failure.reason, failed.failure.type) == ((), "error", "DamagedResult")
    assert "did not arrive as it was sent: 0 bytes of 1,048,576 are there" in failed.failure.message
    assert hand_up(near, far, twins) == [twins]


def test_another_file_in_its_place_is_never_written(sides, tmp_path):
    """When user code has closed the descriptor and opened a file under the same number, that is an error."""
    _, far = sides
    (tmp_path / "other").write_bytes(b"theirs")
    with (tmp_path / "other").open("r+b") as other:
        os.dup2(other.fileno(), far._fd)
        with pytest.raises(OSError, match="was closed"):
            next(far.put(b"ours"))
    assert (tmp_path / "other").read_bytes() == b"theirs"


def test_the_end_frees_the_memory_whoever_else_holds_it(sides):
    """A process that user code forked may outlive its Consumer by years: it keeps the file, and nothing in it."""
    near, far = sides
    assert hand_up(near, far, outcome(1, bytes(PIECE)))
    assert os.fstat(far._fd).st_blocks
    near.close()
    assert os.fstat(far._fd).st_blocks == 0
