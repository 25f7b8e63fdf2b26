"""The way down of a lane, without a Consumer: who writes, and what becomes of a chunk that nobody reads."""

import fcntl
import os
import threading

import pytest

from mqworker.consumer.inbox import Inbox
from mqworker.producer.lane_queue import AROUND, LaneQueue
from tests.support.waiting import wait_for

DEADLINE = 20.0
PIPE = 1 << 16  # bytes that a pipe holds


@pytest.fixture
def queue():
    """A queue whose far end is here."""
    inbox = Inbox()
    queue = LaneQueue(inbox)
    yield queue
    feeder = queue.far._thread
    queue.unlink_semaphores()
    queue.close()
    inbox.close()
    feeder.join(DEADLINE)
    assert not feeder.is_alive()


@pytest.mark.parametrize("size", [0, 16_000, PIPE - AROUND])
def test_a_chunk_that_the_pipe_holds_is_there_as_soon_as_it_is_put(queue, size):
    """No other thread has to run before the Consumer wakes up, and the queue counts as JoinableQueue does."""
    for _ in range(3):
        packed = os.urandom(size)
        queue.far._notempty.acquire()  # the feeder could take nothing
        try:
            queue.put(packed)
        finally:
            queue.far._notempty.release()
        assert queue.far._reader.poll()
        assert queue.far.full()
        assert queue.far.get() == packed
        queue.far.task_done()
        assert not queue.far.full()
    queue.far.join()
    queue.put(None)
    assert queue.far.get() is None


@pytest.mark.parametrize("holds", [PIPE, 4096])
def test_a_chunk_that_the_pipe_does_not_hold_never_blocks_who_puts_it(queue, holds):
    """It returns although nobody reads, also where the kernel gives the user's pipes less room than usual."""
    fcntl.fcntl(queue.far._writer.fileno(), fcntl.F_SETPIPE_SZ, holds)
    queue._measure()
    packed = os.urandom(holds + 1)
    putting = threading.Thread(target=queue.put, args=[packed], daemon=True)
    putting.start()
    putting.join(DEADLINE)
    assert not putting.is_alive()
    assert queue.far.get() == packed


@pytest.mark.parametrize("size", [100, 2 * PIPE])
def test_a_chunk_for_a_dead_consumer_is_dropped(queue, size):
    """Neither the one that is written at once nor the one that the feeder writes raises, and both leave room."""
    queue.consumer_started()  # the only reading end is closed
    queue.put(os.urandom(size))
    wait_for(lambda: not queue.far.full(), DEADLINE, "the chunk to be dropped")
