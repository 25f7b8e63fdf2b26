"""The inbox: a large body on its way to a Consumer."""

import os
import resource
import signal
import threading

import pytest

from mqworker.consumer.inbox import Inbox
from tests.consumer.test_outbox import Handle
from tests.support.memory import no_more_memory


@pytest.fixture
def sides():
    """The Producer's inbox and its Consumer's."""
    near = Inbox()
    far = Inbox.__new__(Inbox)
    far.__setstate__(Handle(os.dup(near._fd)))
    yield near, far
    near.close()
    far.close()


def test_each_body_arrives_and_leaves_no_memory_behind(sides):
    """Bodies of any size arrive one after the other, unharmed, and once one is taken its memory is free."""
    near, far = sides
    for body in (b"a", os.urandom(3 << 20), b"bc"):
        near.put(body)
        assert far.take(len(body)) == body
        assert os.fstat(near._fd).st_blocks == 0


def test_without_memory_it_stays_empty(sides):
    """What the kernel does not allow to be written is refused as a whole, and the next body that fits arrives."""
    near, far = sides
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limit[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            near.put(bytes(1 << 17))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.fstat(near._fd).st_size == 0
    near.put(b"small")
    assert far.take(5) == b"small"


def test_a_body_for_which_there_is_no_room_is_removed(sides):
    """A Consumer without memory for a body is told so, keeps nothing of it, and gets the next one."""
    near, far = sides
    near.put(bytes(64 << 20))
    with no_more_memory(), pytest.raises(MemoryError, match="no memory for its body of 67,108,864 bytes"):
        far.take(64 << 20)
    assert os.fstat(near._fd).st_blocks == 0
    near.put(b"small")
    assert far.take(5) == b"small"


def test_another_file_in_its_place_is_never_read(sides, tmp_path):
    """When user code has closed the descriptor and opened a file under the same number, that is an error."""
    near, far = sides
    near.put(b"right")
    (tmp_path / "other").write_bytes(b"wrong")
    with (tmp_path / "other").open("rb") as other:
        os.dup2(other.fileno(), far._fd)
        with pytest.raises(OSError, match="was closed"):
            far.take(5)
    assert (tmp_path / "other").read_bytes() == b"wrong"


def test_a_body_that_is_not_whole_is_never_given_out(sides):
    """What user code has cut short is an error, and does not stay."""
    near, far = sides
    near.put(b"right")
    os.ftruncate(far._fd, 3)
    with pytest.raises(OSError, match="3 bytes of 5 are there"):
        far.take(5)
    assert os.fstat(near._fd).st_size == 0


def test_the_end_frees_the_memory_whoever_else_holds_it(sides):
    """A process that user code forked may outlive its Consumer by years: it keeps the file, and no body in it."""
    near, far = sides
    near.put(bytes(3 << 20))
    assert os.fstat(far._fd).st_blocks
    near.close()
    assert os.fstat(far._fd).st_blocks == 0


def test_what_is_put_after_the_end_goes_nowhere(sides):
    """A feeder thread that is late writes into no other file."""
    near, _ = sides
    near.close()
    told = []

    def put() -> None:
        try:
            near.put(b"late")
        except OSError as error:
            told.append(error)

    late = threading.Thread(target=put)
    late.start()
    late.join(10)
    assert len(told) == 1
