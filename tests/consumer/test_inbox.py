"""The inbox: a large body on its way to a Consumer."""

import os
import resource
import signal
import threading

import pytest

from mqworker.consumer.inbox import Inbox
from tests.consumer.test_outbox import Handle


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
        assert near.put(body)
        assert far.take(len(body)) == body
        assert os.fstat(near._fd).st_blocks == 0


def test_without_memory_it_stays_empty(sides):
    """What the kernel does not allow to be written is refused as a whole, and the next body that fits arrives."""
    near, far = sides
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limit[1]))
    try:
        assert not near.put(bytes(1 << 17))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.fstat(near._fd).st_size == 0
    assert near.put(b"small")
    assert far.take(5) == b"small"


def test_another_file_in_its_place_is_never_read(sides, tmp_path):
    """When user code has closed the descriptor and opened a file under the same number, that is an error."""
    near, far = sides
    assert near.put(b"right")
    (tmp_path / "other").write_bytes(b"wrong")
    with (tmp_path / "other").open("rb") as other:
        os.dup2(other.fileno(), far._fd)
        with pytest.raises(OSError, match="was closed"):
            far.take(5)


def test_what_is_put_after_the_end_goes_nowhere(sides):
    """A feeder thread that is late writes into no other file."""
    near, _ = sides
    near.close()
    put = []
    late = threading.Thread(target=lambda: put.append(near.put(b"late")))
    late.start()
    late.join(10)
    assert put == [False]
