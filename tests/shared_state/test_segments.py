"""The journal's bytes: a torn tail is cut, damage is found, nothing that a message contains looks like a record."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.shared_state import segments
from mqworker.shared_state.segments import DamagedState, Files, choose

SALT = b"saltsalt"


def record(payload, salt=SALT):
    return segments.record(payload, *segments.mark_and_seed(salt))


PAYLOADS = [b"one", b"", b"three" * 4, b"four"]
WHOLE = segments.head("digest", SALT) + b"".join(record(payload) for payload in PAYLOADS)
ENDS = [len(segments.head("digest", SALT) + b"".join(record(each) for each in PAYLOADS[:count]))
        for count in range(len(PAYLOADS) + 1)]  # fmt: skip


def read(data, *, last=True):
    head = segments.read_head(data)
    found, end = [], head.begin
    for payload, end in segments.read_records(data, head):  # noqa: B007 - the last one is used
        found.append(payload)
    segments.check_tail(data, end, head, last=last)
    return found


def test_what_was_written_is_read():
    """Every record, in order, and who wrote it."""
    assert read(WHOLE) == PAYLOADS
    assert segments.read_head(WHOLE).digest == "digest"


@pytest.mark.parametrize("cut", range(ENDS[0], len(WHOLE)))
def test_a_torn_tail_costs_the_record_that_it_cuts(cut):
    """Wherever a kill or a power failure has cut the file; what came before is whole."""
    whole = [payload for payload, end in zip(PAYLOADS, ENDS[1:], strict=True) if end <= cut]
    assert read(WHOLE[:cut]) == whole
    assert read(WHOLE[:cut] + bytes(len(WHOLE) - cut)) == whole or cut in ENDS


def test_a_torn_tail_before_another_segment_is_damage():
    """A segment is on the disk before the next one begins."""
    with pytest.raises(DamagedState, match="later segments"):
        read(WHOLE[:-1], last=False)
    assert read(WHOLE, last=False) == PAYLOADS


@given(st.integers(ENDS[0], ENDS[3] - 1), st.integers(1, 255))
def test_damage_before_readable_records_is_found(at, change):
    """Whatever byte was changed: no record after it is applied, and nothing is taken for a torn tail."""
    data = bytearray(WHOLE)
    data[at] ^= change
    with pytest.raises(DamagedState, match="readable ones follow"):
        read(bytes(data))


@given(st.integers(0, ENDS[0] - 1), st.integers(1, 255))
def test_a_damaged_head_is_found(at, change):
    """Its salt and digest decide what is replayed."""
    data = bytearray(WHOLE)
    data[at] ^= change
    with pytest.raises(DamagedState):
        read(bytes(data))


def test_a_record_inside_a_message_is_none():
    """Whoever sends a message does not know the salt: what looks like a record there is not taken for one."""
    forged = segments.head("digest", b"another!") + record(b"forged", b"another!")
    data = WHOLE + record(forged)[:-1]
    assert read(data) == PAYLOADS


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], Files(0, [], [])),
        (["lock", "socket", "execution"], Files(0, [], [])),
        (["journal-0000000001"], Files(0, [1], [])),
        (["journal-0000000001", "journal-0000000002"], Files(0, [1, 2], [])),
        (["journal-0000000001", "journal-0000000002", "snapshot-0000000002.new"],
         Files(0, [1, 2], ["snapshot-0000000002.new"])),
        (["journal-0000000001", "journal-0000000002", "snapshot-0000000002"],
         Files(2, [2], ["journal-0000000001"])),
        (["journal-0000000003", "snapshot-0000000002", "snapshot-0000000003", "journal-0000000004"],
         Files(3, [3, 4], ["snapshot-0000000002"])),
        (["journal-0000000001", "journal-0000000002.new"], Files(0, [1], ["journal-0000000002.new"])),
    ],
)  # fmt: skip
def test_the_last_snapshot_and_the_journal_after_it_are_the_state(names, found):
    """Whatever a kill between two steps has left beside them."""
    assert choose(names) == found


@pytest.mark.parametrize(
    "names",
    [
        ["journal-0000000002"],
        ["journal-0000000001", "journal-0000000003"],
        ["snapshot-0000000002", "journal-0000000001"],
        ["snapshot-0000000002", "journal-0000000003"],
        ["snapshot-0000000002"],
    ],
)
def test_a_missing_file_is_damage(names):
    """Never a state without what was in it."""
    with pytest.raises(DamagedState, match="is missing"):
        choose(names)
