"""Slots: what a Consumer leaves in shared memory."""

import signal
import subprocess
import sys

import pytest

from mqworker.consumer.register import COUNT, SLOT, InHandRegister, open_slot


def test_both_sides_see_the_same_words(tmp_path):
    """What the Consumer writes the Producer reads, and the other way round, slot by slot."""
    file = InHandRegister(tmp_path / "s.slots")
    near, far, other = file.slot(3), open_slot(file.path, 3), open_slot(file.path, 4)
    far.begin(17, b"f" * 32, 12.5)
    assert (near.seq, near.started, near.fingerprint) == (17, 12.5, b"f" * 32)
    near.stop = 9
    assert (far.stop, far.seq, far.fingerprint) == (9, 17, b"f" * 32)
    assert (other.seq, other.started, other.stop, other.fingerprint) == (0, 0.0, 0, bytes(32))
    far.end()
    assert (near.seq, near.stop) == (0, 9)


def test_a_new_consumer_finds_its_slot_empty(tmp_path):
    """Nothing of its predecessor's is left: neither a message in hand nor a stop."""
    file = InHandRegister(tmp_path / "s.slots")
    slot = file.slot(0)
    slot.begin(1, b"f" * 32, 1.0)
    slot.stop = 5
    slot = file.slot(0)
    assert (slot.seq, slot.started, slot.stop, slot.fingerprint) == (0, 0.0, 0, bytes(32))


def test_the_last_slot_is_inside_the_file(tmp_path):
    """All slots exist; there is none beyond."""
    file = InHandRegister(tmp_path / "s.slots")
    file.slot(COUNT - 1).begin(1, b"z" * 32, 1.0)
    assert file.path.stat().st_size == SLOT * COUNT
    assert file.in_hand() == [b"z" * 32]
    with pytest.raises((IndexError, ValueError)):
        file.slot(COUNT).begin(1, b"z" * 32, 1.0)


def test_what_was_in_hand_outlives_the_tree(tmp_path):
    """After a SIGKILL the next Producer reads which messages had been begun and not ended, until it forgets them."""
    path = tmp_path / "s.slots"
    code = f"""
import os, signal
from pathlib import Path
from mqworker.consumer.register import InHandRegister, open_slot
path = Path({str(path)!r})
file = InHandRegister(path)
for number, seq in ((0, 5), (1, 6), (7, 8)):
    file.slot(number)
    open_slot(path, number).begin(seq, bytes([seq]) * 32, 1.0)
open_slot(path, 1).end()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL
    file = InHandRegister(path)
    assert file.in_hand() == [bytes([5]) * 32, bytes([8]) * 32]
    file.clear()
    assert file.in_hand() == InHandRegister(path).in_hand() == []


def test_the_file_is_private_and_no_link(tmp_path):
    """Only its user may read it, and a planted link is not followed."""
    file = InHandRegister(tmp_path / "s.slots")
    assert file.path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        InHandRegister(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()
