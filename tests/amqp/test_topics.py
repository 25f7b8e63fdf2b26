"""Binding keys of topic exchanges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.amqp.topics import matches

WORDS = st.sampled_from(["a", "b", "", "a+", "*", "#"])
KEYS = st.lists(WORDS, max_size=5).map(".".join)


@pytest.mark.parametrize(
    ("binding_key", "yes", "no"),
    [
        ("a.b", ["a.b"], ["a", "a.b.c", "axb", ""]),
        ("*.b", ["a.b", ".b"], ["b", "a.a.b"]),
        ("a.#", ["a", "a.b", "a.b.c"], ["ab", "b.a", ""]),
        ("#", ["", "a", "a.b"], []),
        ("#.b", ["b", "a.b", "a.a.b"], ["a.b.a", "bb"]),
        ("a.*.#.c", ["a.b.c", "a.b.x.y.c"], ["a.c"]),
        ("", [""], ["a"]),
        ("*", ["a"], ["", "a.b"]),
    ],
)
def test_words(binding_key, yes, no):
    """A star stands for one word, a hash for any number of them, none included."""
    assert [key for key in yes + no if matches(binding_key, key)] == yes


def test_many_hashes_cost_no_more_than_their_number():
    """A key that somebody chose to be slow is not: it would take years if every way to read it were tried."""
    assert not matches(".".join(["#"] * 60 + ["b"]), ".".join(["a"] * 120))
    assert matches(".".join(["#", "a"] * 30), ".".join(["a"] * 120))


def told(binding: list[str], words: list[str]) -> bool:
    """Follow the specification word by word."""
    if not binding:
        return not words
    if binding[0] == "#":
        return any(told(binding[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and (binding[0] in ("*", words[0])) and told(binding[1:], words[1:])


@given(KEYS, KEYS)
def test_the_pattern_is_the_specification(binding_key, routing_key):
    """Except that equal keys always match."""
    words = [key.split(".") if key else [] for key in (binding_key, routing_key)]
    expected = binding_key == routing_key or told(*words)
    assert matches(binding_key, routing_key) is expected
