"""How long a call is remembered, by tables of events."""

import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.shared_state.identity import link_key, message_key
from mqworker.shared_state.memory import BATCH, KEEP, RENEWALS, CallMemory, SavedStage

M = [bytes((number,)) * 16 for number in range(20)]  # messages
C, D = b"c" * 16, b"d" * 16  # calls
NOW = 1_000_000.0


def named(memory, *messages, stage="s"):
    memory.settled(stage, list(messages))


def stored(*messages, **options):
    memory = CallMemory(**options)
    for message in messages:
        memory.store("s", message, C, b"\0" + message, NOW)
    return memory


def test_a_call_is_found_under_its_stage_message_and_key():
    """And under nothing else."""
    memory = stored(M[0])
    memory.store("s", M[0], D, b"\0second", NOW)
    assert memory.find("s", M[0], C) == b"\0" + M[0]
    assert memory.find("s", M[0], D) == b"\0second"
    assert memory.find("s", M[0], b"e" * 16) is None
    assert memory.find("s", M[1], C) is None
    assert memory.find("t", M[0], C) is None
    assert len(memory) == 1


@pytest.mark.parametrize("between", [0, 1, 2, 3])
def test_a_settled_message_is_forgotten_when_so_many_later_ones_were_named(between):
    """Exactly then, whether those made calls or not, and whatever happens in other stages."""
    memory = stored(M[0], M[1], most_named=3)
    named(memory, M[0])
    named(memory, *M[1 : 1 + between])
    named(memory, *M[10:20], stage="t")
    assert (memory.find("s", M[0], C) is None) == (between == 3)


def test_a_message_that_is_settled_again_is_remembered_from_then_on():
    """Its ack was lost and its outcome adopted: it made no call, and may come back once more."""
    memory = stored(M[0], most_named=3)
    named(memory, M[0], M[1], M[2], M[0], M[3], M[4])
    assert memory.find("s", M[0], C) is not None
    named(memory, M[5])
    assert memory.find("s", M[0], C) is None


@pytest.mark.parametrize("settled_first", [False, True])
def test_what_may_come_back_later_is_kept_for_days(settled_first):
    """A record that a second run met, or whose message is published again, whatever is named after it."""
    memory = stored(M[0], most_named=3)
    if settled_first:
        named(memory, M[0])
    assert memory.meets("s", M[0], NOW)
    memory.published_again("s", [M[0]], NOW)
    assert not memory.meets("s", M[0], NOW + KEEP // RENEWALS - 1)
    assert memory.meets("s", M[0], NOW + KEEP // RENEWALS + 1)
    named(memory, M[0], *M[1:10])
    memory.expire(NOW + KEEP - 1)
    assert memory.find("s", M[0], C) is not None
    memory.expire(NOW + KEEP + 1)
    assert memory.find("s", M[0], C) is None
    assert len(memory) == memory.kept == 0


def test_an_old_place_in_the_ring_does_not_forget_a_new_record():
    """A message that was kept, forgotten, and recorded anew has its full time again."""
    memory = stored(M[0], most_named=3, keep=10)
    named(memory, M[0])
    memory.published_again("s", [M[0]], NOW)
    memory.expire(NOW + 20)
    memory.store("s", M[0], C, b"\0new", NOW + 20)
    named(memory, M[0], M[1], M[2])
    assert memory.find("s", M[0], C) == b"\0new"
    named(memory, M[3])
    assert memory.find("s", M[0], C) is None


def test_a_lost_word_costs_memory_for_days_and_no_more():
    """A message that was never named is forgotten like one that is kept."""
    memory = stored(M[0])
    memory.expire(NOW + KEEP - 1)
    assert len(memory) == 1
    memory.expire(NOW + KEEP + 1)
    assert len(memory) == 0


def test_too_many_kept_records_lose_the_oldest_and_are_counted():
    """The newest stay."""
    memory = stored(*M[:10], most_kept=10)
    memory.store("s", M[10], C, b"\0", NOW)
    assert memory.evicted == 1
    assert [message for message in M[:11] if memory.find("s", message, C) is None] == [M[0]]
    memory.published_again("s", [M[1]], NOW)
    memory.store("s", M[11], C, b"\0", NOW)
    assert memory.find("s", M[1], C) is not None
    assert memory.find("s", M[2], C) is None
    assert BATCH > 1


def test_what_is_remembered_is_bounded_in_bytes():
    """Those that were settled go first, the oldest first; then the oldest of the others; never the one just stored."""
    memory = CallMemory(most_bytes=100)
    for message in M[:4]:
        memory.store("s", message, C, bytes(20), NOW)
    named(memory, M[0], M[2])
    memory.store("s", M[4], C, bytes(20), NOW)
    assert memory.evicted == 0
    memory.store("s", M[4], D, bytes(10), NOW)
    assert [memory.find("s", message, C) is None for message in M[:5]] == [True, False, True, False, False]
    assert memory.evicted == 2
    again = CallMemory(most_bytes=100)
    again.load(msgspec.msgpack.decode(msgspec.msgpack.encode(memory.save()), type=dict[str, SavedStage]))
    for each in (memory, again):
        each.store("s", M[5], C, bytes(90), NOW)
        assert [each.find("s", message, C) is None for message in M[:6]] == [True] * 5 + [False]
        assert len(each) == each.kept == 1


def test_failures_can_be_forgotten():
    """The chosen answers go, also where a message has others; the rest stays."""
    memory = stored(M[0], M[1])
    memory.store("s", M[0], D, b"\2failure", NOW)
    memory.store("s", M[2], C, b"\2failure", NOW)
    memory.forget_answers(lambda answer: answer[0] == 2)
    assert memory.find("s", M[0], C) is not None
    assert memory.find("s", M[0], D) is None
    assert memory.find("s", M[2], C) is None
    assert len(memory) == memory.kept == 2


EVENTS = st.lists(
    st.tuples(st.sampled_from(["store", "settled", "again", "expire"]), st.sampled_from(M[:6]), st.sampled_from("st"))
)


def play(memory, events, at):
    for kind, message, stage in events:
        at += 2
        if kind == "store" and memory.find(stage, message, C) is None:
            memory.store(stage, message, C, b"\0" + message, at)
        elif kind == "settled":
            memory.settled(stage, [message])
        elif kind == "again":
            memory.published_again(stage, [message], at)
        elif kind == "expire":
            memory.expire(at)
    return at


@given(EVENTS, EVENTS)
def test_a_saved_memory_goes_on_as_the_one_that_was_saved(before, after):
    """Through the bytes of a snapshot: the same events then leave the same records."""
    first, second = (CallMemory(most_named=3, most_kept=4, keep=9) for _ in range(2))
    at = play(first, before, NOW)
    saved = msgspec.msgpack.decode(msgspec.msgpack.encode(first.save()), type=dict[str, SavedStage])
    second.load(saved)
    assert len(second) == len(first)
    play(first, after, at)
    play(second, after, at)
    assert second.save() == first.save()


@given(EVENTS)
def test_the_count_of_kept_records_is_right_and_bounded(events):
    """Whatever happens, and no record is in two places."""
    memory = CallMemory(most_named=3, most_kept=4, keep=9)
    play(memory, events, NOW)
    stages = memory.save().values()
    assert memory.kept == sum(len(stage.kept) for stage in stages) <= 4
    assert all(len(stage.ring) <= 3 and not stage.kept.keys() & stage.named.keys() for stage in stages)


@pytest.mark.untraced
def test_a_record_of_a_links_call_takes_less_than_the_bound():
    """525 bytes each, of which 65,536 a stage are kept by their number alone."""
    key = link_key("rule", 0)
    count = 20_000
    tracemalloc.start()
    memory = CallMemory()
    for number in range(count):
        message = message_key(str(number), b"body")
        memory.store("s", message, key, bytes((1,)), NOW)
        memory.settled("s", [message])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(memory) == count
    assert size / count < 525
