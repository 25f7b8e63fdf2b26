"""Suspects: how deaths of the tree affect the messages that were in hand, and what has no effect on them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.consumer.register import LastLife
from mqworker.producer.suspects import MARGIN, MOST, Memory, Suspect, Suspects, after_death

A, B = b"a" * 32, b"b" * 32
DIED = LastLife(life=1, this_boot=True, ending=False, pulse=100.0, isolated=b"", in_hand={A: 90.0, B: 99.0})


def after(*lives: LastLife) -> Memory:
    """Return the memory after these lives of the tree, one after another."""
    memory = Memory()
    for number, last in enumerate(lives, 1):
        memory = after_death(memory, last._replace(life=number))
    return memory


def test_one_death_makes_no_suspect():
    """A message in hand when somebody killed the tree runs as before."""
    known = after(DIED).known
    assert known == {A.hex(): Suspect(1, 10.0), B.hex(): Suspect(1, 1.0)}
    assert not any(suspect.suspected for suspect in known.values())


def test_two_deaths_make_a_suspect_that_runs_isolated():
    """The window is the longest age at which the tree died, and some seconds more."""
    suspect = after(DIED, DIED._replace(in_hand={A: 98.0})).known[A.hex()]
    assert suspect.suspected
    assert not suspect.convicted
    assert (suspect.longest, suspect.window, suspect.window_is_whole) == (10.0, 10.0 + MARGIN, True)


def test_only_deaths_while_it_ran_isolated_convict():
    """Two deaths while isolated make a message dead; deaths beside others never do, however many."""
    alone = DIED._replace(isolated=A, in_hand={A: 99.0})
    assert not after(*[DIED] * 9).known[A.hex()].convicted
    assert not after(DIED, DIED, alone).known[A.hex()].convicted
    assert after(DIED, DIED, alone, alone).known[A.hex()].convicted


@pytest.mark.parametrize(
    "last",
    [
        pytest.param(DIED._replace(ending=True), id="an end by order"),
        pytest.param(DIED._replace(ending=True, isolated=A), id="an end by order during an isolated run"),
        pytest.param(DIED._replace(this_boot=False), id="a reboot"),
        pytest.param(DIED._replace(life=0), id="a file of an earlier version"),
        pytest.param(DIED._replace(in_hand={}), id="nothing was in hand"),
        pytest.param(DIED._replace(in_hand={}, isolated=A), id="the isolated message had not begun"),
    ],
)
def test_what_counts_for_nothing(last):
    """These ends of the tree leave no trace."""
    assert after_death(Memory(), last).known == {}


def test_a_death_is_counted_once():
    """A kill between storing the suspects and clearing the register changes nothing."""
    once = after_death(Memory(), DIED)
    assert after_death(once, DIED) == once


def test_patience_grows_with_the_deaths():
    """Hour-long messages that met two kills do not delay the stage for hours; a slow killer is still found."""
    hour = DIED._replace(in_hand={A: 100.0 - 3600.0})
    windows = [after(*[hour] * deaths).known[A.hex()].window for deaths in range(2, 8)]
    assert windows == [15.0, 60.0, 240.0, 960.0, 3600.0 + MARGIN, 3600.0 + MARGIN]


def test_a_clock_that_stood_still_gives_no_negative_age():
    """The last heartbeat may be older than the start of a message."""
    assert after(DIED._replace(pulse=0.0)).known[A.hex()].longest == 0.0


def test_the_memory_is_bounded():
    """At most MOST suspects are remembered; those with the fewest deaths are forgotten first."""
    many = {number.to_bytes(32): 99.0 for number in range(MOST + 5)}
    known = after(DIED, DIED, DIED._replace(in_hand=many)).known
    assert len(known) == MOST
    assert A.hex() in known
    assert B.hex() in known


def test_who_has_outlived_a_whole_window_is_cleared(tmp_path):
    """A suspect that outlived only a shorter window is not cleared; none is remembered after its outcome."""
    hour = DIED._replace(in_hand={A: 98.0, B: 100.0 - 3600.0})
    path = tmp_path / "s.suspects"
    for life in (1, 2):
        suspects = Suspects(path, hour._replace(life=life))
    suspects.outlived(A)
    suspects.outlived(B)
    assert suspects.find(A) is None
    assert suspects.find(B) is not None
    suspects.clear(B)
    assert len(suspects) == len(Suspects(path, DIED._replace(life=0))) == 0


@pytest.mark.parametrize(
    "content", [b"", b"\0\1", b"[]", b'{"ab": {"deaths": 1, "solo": true}}'], ids=["empty", "noise", "list", "earlier"]
)
def test_a_file_that_cannot_be_used_costs_the_memory_alone(tmp_path, content):
    """A file that is damaged or of an earlier version is ignored: the memory starts empty."""
    path = tmp_path / "s.suspects"
    path.write_bytes(content)
    assert Suspects(path, DIED).find(A) == Suspect(1, 10.0)


deaths = st.builds(
    LastLife,
    life=st.integers(0, 4),
    this_boot=st.booleans(),
    ending=st.booleans(),
    pulse=st.floats(0, 1000),
    isolated=st.sampled_from([b"", A, B]),
    in_hand=st.dictionaries(st.sampled_from([A, B]), st.floats(0, 1000)),
)


@given(st.lists(deaths, max_size=20))
def test_nobody_is_convicted_but_in_hand_and_isolated_at_two_deaths_without_an_order(lives):
    """Whatever happened besides."""
    memory, convicting, counted = Memory(), {A: 0, B: 0}, 0
    for last in lives:
        if last.life not in {0, counted}:
            counted = last.life
            if last.this_boot and not last.ending and last.isolated in last.in_hand:
                convicting[last.isolated] += 1
        memory = after_death(memory, last)
        assert after_death(memory, last) == memory
    for name, count in convicting.items():
        suspect = memory.known.get(name.hex(), Suspect())
        assert suspect.isolated == count
        assert suspect.convicted == (count >= 2)
