"""The in-hand register: what a Consumer leaves in shared memory."""

import signal
import subprocess
import sys

import pytest

from mqworker.consumer.register import BLOCKS, COUNT, SLOT, InHandRegister, open_seats, open_slot


def test_both_sides_see_the_same_words(tmp_path):
    """The Producer reads what the Consumer writes, and the reverse, slot by slot."""
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
    """Nothing of its predecessor is left: neither a message in hand nor a stop."""
    file = InHandRegister(tmp_path / "s.slots")
    slot = file.slot(0)
    slot.begin(1, b"f" * 32, 1.0)
    slot.stop = 5
    slot = file.slot(0)
    assert (slot.seq, slot.started, slot.stop, slot.fingerprint) == (0, 0.0, 0, bytes(32))


def test_the_last_slot_is_inside_the_file(tmp_path):
    """All slots exist, and no others."""
    file = InHandRegister(tmp_path / "s.slots")
    file.slot(COUNT - 1).begin(1, b"z" * 32, 1.0)
    assert file.path.stat().st_size == BLOCKS + COUNT * SLOT
    assert file.last_life().in_hand == {b"z" * 32: 1.0}
    with pytest.raises(IndexError):
        file.slot(COUNT)


def test_what_was_in_hand_outlives_the_tree(tmp_path):
    """After a SIGKILL the next Producer reads which messages were started and not finished, until it clears them."""
    path = tmp_path / "s.slots"
    code = f"""
import os, signal
from pathlib import Path
from mqworker.consumer.register import InHandRegister, open_seats, open_slot
path = Path({str(path)!r})
file = InHandRegister(path)
file.begin_life(3.0)
for number, seq in ((0, 5), (1, 6), (7, 8)):
    file.slot(number)
    open_slot(path, number).begin(seq, bytes([seq]) * 32, 1.0)
open_slot(path, 1).end()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    file = InHandRegister(path)
    last = file.last_life()
    assert last.in_hand == {bytes([5]) * 32: 1.0, bytes([8]) * 32: 1.0}
    assert (last.life != 0, last.this_boot, last.ending, last.pulse, last.isolated) == (True, True, False, 3.0, b"")
    file.begin_life(9.0)
    assert file.last_life().in_hand == InHandRegister(path).last_life().in_hand == {}
    assert file.last_life().life not in {0, last.life}


def test_what_the_producer_notes_is_read_by_the_next_one(tmp_path):
    """When it was last alive, which message ran isolated, and whether it was ending by order."""
    file = InHandRegister(tmp_path / "s.slots")
    file.begin_life(1.0)
    file.isolate(b"i" * 32)
    file.pulse(7.5)
    last = InHandRegister(file.path).last_life()
    assert (last.pulse, last.isolated, last.ending) == (7.5, b"i" * 32, False)
    file.end_isolation()
    file.end_life()
    last = InHandRegister(file.path).last_life()
    assert (last.isolated, last.ending) == (b"", True)
    file.begin_life(8.0)
    assert InHandRegister(file.path).last_life().ending is False


def test_a_file_of_an_earlier_version_counts_for_nothing(tmp_path):
    """It ends after the slots: it records no life, whatever was in hand."""
    path = tmp_path / "s.slots"
    InHandRegister(path).slot(0).begin(1, b"f" * 32, 1.0)
    with path.open("r+b") as file:
        file.truncate(SLOT * COUNT)
    assert InHandRegister(path).last_life().life == 0


def test_a_life_before_the_last_boot_is_told_apart(tmp_path):
    """The times in the file mean nothing then."""
    file = InHandRegister(tmp_path / "s.slots")
    file.begin_life(1.0)
    file._header[:16] = b"another boot id."
    assert InHandRegister(file.path).last_life().this_boot is False


def test_the_file_is_private_and_no_link(tmp_path):
    """Only its user can read it, and a planted link is not followed."""
    file = InHandRegister(tmp_path / "s.slots")
    assert file.path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        InHandRegister(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


def test_n_messages_of_each_consumer_are_told_to_the_next_life(tmp_path):
    """Of threads all that are in hand; of tasks only the one that had the loop: those that wait kill nobody."""
    path = tmp_path / "s.slots"
    file = InHandRegister(path, 4)
    file.begin_life(1.0)
    for place, kind in enumerate(("threads", "tasks", "tasks")):
        file.seats(place)
        far = open_seats(path, place, 4)
        far.begin(kind, 99)
        for seat in (0, 1, 3):
            seq = 10 * place + seat + 1
            far.slots[seat].begin(seq, bytes([seq]) * 32, float(seq))
        far.slots[3].wait()  # it waits for a shared object
    open_seats(path, 1, 4).run(12, 99.0)
    found = InHandRegister(path, 64).last_life().in_hand  # whatever is configured now
    assert found == {bytes([seq]) * 32: float(seq) for seq in (1, 2, 12)}
    file.begin_life(2.0)
    assert InHandRegister(path).last_life().in_hand == {}


def test_both_sides_see_the_same_words_of_a_consumer_with_seats(tmp_path):
    """Each Consumer has its own block; a new one finds it empty, and the words of a serial one are where they were."""
    file = InHandRegister(tmp_path / "s.slots", 64)
    assert file.places == 2 * 128
    near, other = file.seats(3), file.seats(4)
    far = open_seats(file.path, 3, 64)
    far.begin("tasks", 1 << 46)
    far.slots[63].begin(7, b"f" * 32, 12.5)
    far.slots[63].thread = 1 << 47
    far.run(7, 13.5)
    far.pulse = 14.5
    assert (near.working(), near.thread_of(7), near.running, near.running_since, near.pulse) == (
        *({7: 12.5}, 1 << 47, 7, 13.5, 14.5),
    )
    assert (near.loop, other.loop) == (1 << 46, 0)
    near.stop = 9
    assert far.stop == 9
    assert (other.working(), other.running) == ({}, 0)
    far.run(0, 0.0)
    assert near.running == 0
    assert file.seats(3).working() == {}
    last = file.seats(file.places - 1)
    last.slots[63].begin(1, b"z" * 32, 1.0)
    assert last.working() == {1: 1.0}
