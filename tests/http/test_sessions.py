"""Cookies and tickets, by themselves: what was not made here, for this service, in time, is no session."""

import re
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.http.sessions import (
    CLOCK,
    LASTS,
    LONGEST,
    RENEWED,
    TICKET_LASTS,
    TICKETS,
    Sessions,
    Tickets,
    instance,
    is_prefix,
)
from tests.support.waiting import AMPLE

KEY, NOW = bytes(range(32)), 1_700_000_000.0
OURS = Sessions("0123abcd", KEY, ("token", "read"))
SESSION = OURS.begin("control", "/mq/", NOW, secure=False)
COOKIE = OURS.set_cookie(SESSION, NOW).partition(";")[0]


def test_a_session_is_read_as_it_was_written():
    """A cookie holds all that a session is, also among those of other applications."""
    for role, path, secure in (("control", "/", False), ("read", "/a/b_c/~d/", True)):
        session = OURS.begin(role, path, NOW, secure=secure)
        pair = OURS.set_cookie(session, NOW).partition(";")[0]
        assert OURS.read(f"a=b; {pair}; mqworker_0123abcd=x", NOW + 1) == session


@given(st.integers(0, len(COOKIE) - 1), st.characters(codec="latin-1"))
def test_a_changed_cookie_is_none(place, character):
    """A cookie with any one character changed is no session, or still the same."""
    changed = COOKIE[:place] + character + COOKIE[place + 1 :]
    read = OURS.read(changed, NOW)
    assert read is None or changed.strip() == COOKIE or read == SESSION


@given(st.text(st.characters(codec="latin-1")))
def test_whatever_is_sent_is_no_session(text):
    """No other text is a session, and none raises."""
    assert OURS.read(text, NOW) is None
    assert OURS.read(f"{OURS.cookie}={text}", NOW) is None


@pytest.mark.parametrize(
    "other",
    [
        Sessions("0123abce", KEY, ("token", "read")),
        Sessions("0123abcd", KEY[::-1], ("token", "read")),
        Sessions("0123abcd", KEY, ("token", "")),
        Sessions("0123abcd", KEY, ("read", "token")),
        Sessions("0123abcd", KEY, ("tokenread", "")),
    ],
    ids=["name", "key", "without the read token", "swapped", "joined"],
)
def test_a_cookie_of_another_service_is_none(other):
    """A cookie made with another name, key or token is not taken, under our own name neither."""
    pair = other.set_cookie(SESSION, NOW).partition(";")[0]
    assert OURS.read(pair, NOW) is None
    assert OURS.read(f"{OURS.cookie}={pair.partition('=')[2]}", NOW) is None


def test_a_cookie_ends():
    """A cookie is taken until twelve hours have passed, and not after; what it says of its end is under the HMAC."""
    assert OURS.read(COOKIE, NOW + LASTS - 1) == SESSION
    assert OURS.read(COOKIE, NOW + LASTS) is None
    longer = COOKIE.replace(str(SESSION.expires), str(SESSION.expires + 1))
    assert longer != COOKIE
    assert OURS.read(longer, NOW) is None
    upgraded = OURS.set_cookie(SESSION._replace(role="read"), NOW).partition(";")[0].replace(".read.", ".control.")
    assert OURS.read(upgraded, NOW) is None


def test_a_clock_that_is_set_back_makes_no_session_longer():
    """What was begun or renewed in what is the future now is taken only as far as clocks are corrected."""
    assert OURS.read(COOKIE, NOW - CLOCK) == SESSION
    assert OURS.read(COOKIE, NOW - CLOCK - 1) is None
    renewed = OURS.renewed(SESSION, NOW + LASTS - 1)
    pair = OURS.set_cookie(renewed, NOW).partition(";")[0]
    assert OURS.read(pair, NOW + LASTS - 1 - CLOCK) == renewed
    assert OURS.read(pair, NOW + LASTS - 2 - CLOCK) is None


def test_a_session_is_not_renewed_for_ever():
    """It is renewed once an hour, up to a week after the login."""
    assert OURS.renewed(SESSION, NOW + RENEWED - 1) is None
    session, renewals, now = SESSION, 0, NOW
    while session.expires > now:
        now += RENEWED
        if (later := OURS.renewed(session, now)) is not None:
            session, renewals = later, renewals + 1
    assert session.expires == SESSION.begun + LONGEST
    assert renewals <= LONGEST / RENEWED
    assert (session.nonce, session.begun) == (SESSION.nonce, SESSION.begun)


def test_other_cookies_of_our_name_hide_nothing():
    """What another application of the host sets under our name does not shut us out, and costs next to nothing."""
    forged = COOKIE[:-1] + ("A" if COOKIE[-1] != "A" else "B")
    header = "; ".join([*[f"{OURS.cookie}=x", forged] * 80, COOKIE])
    assert OURS.read(header, NOW) == SESSION
    begun = time.thread_time()
    OURS.read(header, NOW)
    assert time.thread_time() - begun < 0.02


@given(st.text())
def test_a_prefix_never_ends_its_attribute(path):
    """What is accepted as a prefix has no character that means something in a header."""
    if is_prefix(path):
        assert re.fullmatch(r"/([^;,\s\x00-\x20\x7f-\U0010ffff\"\\<]+/)*", path)


def test_the_name_tells_services_of_a_host_apart():
    """Cookies are sent to every port of a host: the folder of the state gives each service a name of its own."""
    assert instance("/srv/a") != instance("/srv/b")
    assert re.fullmatch(r"[0-9a-f]{8}", instance("/srv/\udcff"))


def test_a_ticket_is_used_once_and_in_time():
    """A ticket begins one session, within five minutes; another text begins none."""
    tickets = Tickets()
    first, second = tickets.make("read", 0.0), tickets.make("control", 0.0)
    assert first != second
    assert tickets.redeem("", 1.0) is None
    assert tickets.redeem(first[:-1], 1.0) is None
    assert tickets.redeem(first, TICKET_LASTS - 0.1) == "read"
    assert tickets.redeem(first, TICKET_LASTS - 0.1) is None
    assert tickets.redeem(second, TICKET_LASTS) is None


def test_a_ticket_is_used_once_by_whoever_comes_first():
    """Of many who use the same ticket at the same moment one gets a session."""
    tickets = Tickets()
    ticket = tickets.make("control", 0.0)
    together, got = threading.Barrier(8), []

    def use() -> None:
        together.wait(AMPLE)
        got.append(tickets.redeem(ticket, 1.0))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(AMPLE)
    assert sorted(got, key=str) == [None] * 7 + ["control"]


def test_the_oldest_of_too_many_tickets_ends():
    """There are at most a hundred tickets; they are not kept as they are."""
    tickets = Tickets()
    made = [tickets.make("control", float(n) / 1000) for n in range(TICKETS + 5)]
    assert not any(ticket in str(tickets._open) for ticket in made)
    assert [tickets.redeem(ticket, 1.0) is not None for ticket in made] == [False] * 5 + [True] * TICKETS
