"""Which calls are not made again, and until when."""

from mqworker.shared_state.charges import HOLDS, Charges
from mqworker.shared_state.messages import Charge

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
ONE, OTHER = Charge("s", A, C, "why"), Charge("s", B, C, "also")


def test_a_charge_is_for_every_consumer_that_has_asked_until_the_producer_says_what_became_of_the_message():
    """Each gets it; then the next attempt of the message makes its call."""
    ended = []
    charges = Charges([ONE, OTHER], ended.append)
    assert [charges.find("s", A, C, now) for now in (10.0, 10.1)] == [ONE, ONE]
    charges.named("t", [A])
    assert charges.find("s", A, C, 10.2) == ONE
    charges.named("s", [B, A])
    assert charges.find("s", A, C, 10.3) is None
    assert ended == [ONE], "the other has not been met: nothing was said of this run"
    assert charges.find("s", B, C, 99.0) == OTHER


def test_a_charge_ends_by_itself_when_no_word_comes():
    """Some seconds after its first use, not after it was made."""
    ended = []
    charges = Charges([ONE], ended.append)
    assert charges.find("s", A, C, 1000.0) == ONE
    assert charges.find("s", A, C, 1000.0 + HOLDS) == ONE
    assert charges.find("s", A, C, 1000.1 + HOLDS) is None
    assert (bool(charges), ended) == (False, [ONE])


def test_another_call_of_the_message_is_none_of_its_business():
    """It is the call that the process died in."""
    charges = Charges([ONE])
    assert charges.find("s", A, B, 1.0) is None
    assert charges.find("t", A, C, 1.0) is None
    assert charges
