"""The outbox: outcomes that were not yet sent up."""

import os

import pytest

from mqworker.consumer.outbox import SIZE, Outbox


class Handle:
    """What a spawned process receives instead of a descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def detach(self) -> int:
        return self._fd


@pytest.fixture
def sides():
    """The Producer's outbox and its Consumer's."""
    near = Outbox()
    far = Outbox.__new__(Outbox)
    far.__setstate__(Handle(os.dup(near._fd)))
    near.settle()
    return near, far


def test_what_is_left_is_seen_once(sides):
    """Reading returns, in order, everything that is there, and nothing when nothing was added."""
    near, far = sides
    assert near.news() == []
    assert far.add(b"one")
    assert far.add(b"two")
    assert near.news() == [b"one", b"two"]
    assert near.news() == []
    assert far.add(b"three")
    assert near.news() == [b"one", b"two", b"three"]


def test_what_was_handed_up_is_gone(sides):
    """After `clear` only later outcomes are there, even if they are as long as the earlier ones."""
    near, far = sides
    far.add(b"one")
    assert near.news() == [b"one"]
    far.clear()
    assert near.news() == []
    far.add(b"two")
    assert near.news() == [b"two"]


def test_no_room(sides):
    """What does not fit is refused, and the content stays intact."""
    near, far = sides
    assert far.add(b"x" * (SIZE // 2))
    assert not far.add(b"y" * (SIZE // 2))
    assert near.news() == [b"x" * (SIZE // 2)]
    far.clear()
    assert far.add(b"y" * (SIZE // 2))


def test_damage_is_nothing(sides):
    """Memory that user code overwrote is never taken for an outcome."""
    near, far = sides
    far.add(b"one")
    far._memory[25] ^= 1
    assert near.news() == []
