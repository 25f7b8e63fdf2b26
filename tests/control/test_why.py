"""Why nothing is happening in a stage."""

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.config.line import Place
from mqworker.control.stage_desired import Candidate, StageDesired, Undone, Version
from mqworker.control.views import StageView
from mqworker.control.why import LONGEST, Why, WhyFacts, why
from mqworker.ipc.stage_status import BlockedOrder, ConsumerStatus, InHand, OrderStatus, SwitchState
from tests.http.operator import GOOD_LINK, stage_status

NOW, WALL = 1000.0, 1_700_000_000.0
BUSY = ConsumerStatus(1, 1, "busy", 1, 1, 7, NOW - 2, "m-1", 5, 1)
IDLE = msgspec.structs.replace(BUSY, state="idle", message_since=0.0, message_id="")
STARTING = msgspec.structs.replace(IDLE, state="starting")
STUCK = msgspec.structs.replace(BUSY, message_since=NOW - 180, message_id="m-17")
SEATS = (InHand(NOW - 90, "a"), InHand(NOW - 40, "b"))
SEATED = msgspec.structs.replace(BUSY, seats=2, messages=SEATS, message_since=NOW - 90, message_id="a")
CALM: dict[str, Any] = {
    **dict.fromkeys(("backlog", "held", "dispatched", "computed", "settling"), 0),
    "arrival_rate": 5.0,
    "service_time": 0.1,
    "utilisation": 0.25,
    "capacity": 20.0,
    "rate": 0.0,
    "p95": 0.1,
    "consumers": (IDLE, IDLE),
    "last_settled": NOW - 120,
    "output_backlog": None,
}
FULL = {
    "rate": 5.0,
    "backlog": 270,
    "held": 20,
    "dispatched": 7,
    "settling": 3,
    "utilisation": 0.99,
    "consumers": (BUSY, BUSY),
}
IN_ORDER = OrderStatus(delayed=0, locked=0, stuck=False)
BLOCKED = OrderStatus(1, 20, False, BlockedOrder("m-3", "car 9", NOW - 60, 19, "its next attempt begins in 60 s"))
PREPARED = {"candidate": Candidate(Version(7, {}), 7, "", "", {})}
DOWN = {"connected": False, "consuming": False, "reason": "cannot reach the broker at h:5672: refused"}
OUTPUT = {"hold_back": "output", "output_backlog": 9998, "problem": "held back: output queue t.in holds 9,998"}
LISTENS = "Listening, 2 of 2 Consumers"


def stage(
    state: str = "running",
    actual: bool = True,
    desired: Any = None,
    link: Any = None,
    problem: str = "",
    **changes: Any,
) -> StageView:
    """Return a stage that is idle, but for these changes; `problem` is also that of its Producer."""
    values = {"running": True, "listening": True, "working": True, "consumers": 2} | (desired or {})
    changes = {"link": msgspec.structs.replace(GOOD_LINK, **(link or {})), "problem": problem} | changes
    status = stage_status("s", **(CALM | changes)) if actual else None
    return StageView("s", StageDesired(**values), state, status, problem, 0, 1)


def told(view: StageView, **facts: Any) -> Why:
    return why(view, WhyFacts(**({"now": NOW, "wall": WALL} | facts)))


# Each line of the table, the first that applies first: its code, what makes it apply, and how its sentence begins.
TABLE: list[tuple[str, dict[str, Any], str]] = [
    (
        "stopped",
        {"state": "stopped", "actual": False, "desired": {"running": False}},
        "Stopped (by whom is not known)",
    ),
    ("backoff", {"state": "backoff", "actual": False, "problem": "the last Producer died"}, "the last Producer died"),
    ("crash_loop", {"state": "crash loop", "crash_loop": True}, "Crash loop: Consumers end before they finish a mess"),
    ("paused", {"desired": {"listening": False}}, "Paused (by whom is not known)"),
    ("no_consumers", {"desired": {"working": False}}, "Working is switched off"),
    ("no_consumers", {"desired": {"consumers": 0}}, "No Consumers are wanted"),
    ("broker", {"link": DOWN}, "Cannot reach the broker at h:5672: refused"),
    ("alarm", {"link": {"blocked": True}}, "The broker refuses messages"),
    ("starting", {"consumers": (STARTING, STARTING)}, "0 of 2 Consumers are set up"),
    ("bytes", {"hold_back": "bytes"}, "Messages are held back"),
    ("unplaced", {"hold_back": "unplaced"}, "Messages are held back"),
    ("output_full", {"hold_back": "output"}, "The output queue is full at times"),
    (
        "standby",
        {"link": {"consuming": False, "waits": "host b has them"}},
        "Another service takes the messages: host b",
    ),
    ("problem", {"problem": "the input was deleted"}, "The input was deleted"),
    ("starting", {"link": {"consuming": False}}, "The broker has not registered the consumer yet"),
    ("order", {"held": 20, "order": BLOCKED}, "Blocked by message m-3 of car 9, here for 60 s: its next attempt begin"),
    ("long", {"consumers": (STUCK, STUCK)}, "2 of 2 Consumers work on long messages, the oldest m-17 for 3 min 0 s"),
    ("retries", {"hold_back": "retries"}, "All that is left waits in a delay queue for its next attempt"),
    ("working", FULL, f"{LISTENS}, 5/s, done in 20 s"),
    ("idle", {}, f"{LISTENS}; the queue has been empty for 2 min 0 s"),
]


@pytest.mark.parametrize(("code", "changes", "sentence"), TABLE, ids=lambda each: each if isinstance(each, str) else "")
def test_each_line_of_the_table(code, changes, sentence):
    """Each state has its code, and a sentence that begins like this."""
    answer = told(stage(**changes))
    assert (answer.code, answer.sentence[: len(sentence)]) == (code, sentence)


def both(first: dict[str, Any], second: dict[str, Any]) -> StageView:
    """Return a stage of which both are true; where they contradict each other, the first."""
    merged = second | first
    for part in ("desired", "link"):
        if part in first and part in second:
            merged[part] = second[part] | first[part]
    return stage(**merged)


@pytest.mark.parametrize(("before", "after"), list(itertools.pairwise(TABLE)), ids=lambda each: each[0])
def test_of_two_that_apply_the_first_is_told(before, after):
    """What is switched off comes before what is broken, and that before what is slow; with each pair of neighbours."""
    assert told(both(before[1], after[1])).code == before[0]


def test_a_pause_of_the_whole_service_comes_before_that_of_a_stage():
    """By the signal, and since when; a stage that does not run is stopped all the same."""
    answer = told(stage(desired={"listening": False}), paused=True, paused_since=WALL - 60, paused_by=("x", 5.0))
    assert answer == Why("paused", "info", "Paused by the signal TSTP 60 s ago: CONT resumes", WALL - 60)
    assert told(stage(**TABLE[0][1]), paused=True).code == "stopped"


def test_who_has_paused_or_stopped_it():
    """As the audit has it, and in words where nobody has a name; not known without one."""
    for who, words in (("", "(by whom is not known)"), ("anybody", "over HTTP"), ("session 3f9a", "by session 3f9a")):
        paused = told(stage(desired={"listening": False}), paused_by=(who, WALL - 9.7)).sentence
        assert paused == f"Paused {words} 10 s ago"
    by = {"paused_by": ("token", WALL - 240)}
    stopped = told(stage(**TABLE[0][1]), **by)
    assert (stopped.since, stopped.sentence) == (WALL - 240, "Stopped with the token 4 min 0 s ago")
    assert stopped.remedy == "`mqworker start --stage s` starts it"


@pytest.mark.parametrize("code", [3, 4, 5])
def test_what_waits_for_an_operator_is_a_warning(code):
    """A stage that is paused or has no Consumers is told as a warning exactly when messages wait in it."""
    changes = TABLE[code][1]
    levels = [told(stage(**changes, backlog=waiting)).level for waiting in (0, 1, None)]
    assert levels == ["info", "warning", "info"]


@pytest.mark.parametrize(
    ("changes", "code", "level", "sentence"),
    [
        (
            {"state": "stopping", "dispatched": 2},
            "draining",
            "info",
            "It ends, and finishes what it has in hand: 2 mess",
        ),
        (
            {"state": "stopping", "actual": False, "desired": {"running": False}},
            "draining",
            "info",
            "Its process is be",
        ),
        ({"state": "stopped", "actual": False}, "draining", "info", "It has ended, because the service ends"),
        ({"state": "starting", "actual": False}, "starting", "info", "Its process is being started"),
        ({"desired": {"consumers": 0, "auto": True}}, "no_consumers", "info", "Its share of the Consumers is 0"),
        ({"consumers": (STARTING,), "problem": "setup raised"}, "problem", "error", "Setup raised"),
        (
            {"order": OrderStatus(0, 20, True), **FULL},
            "order",
            "warning",
            "In this order nothing can begin before anot",
        ),
        (
            {"order": OrderStatus(1, 1, False), "held": 1},
            "retries",
            "info",
            "1 message waits here for the next attempt",
        ),
        (
            {"order": OrderStatus(9, 9, False), "held": 9},
            "retries",
            "info",
            "9 messages wait here for the next attempt",
        ),
        (
            FULL | {"arrival_rate": 140.0, "capacity": 123.4, "backlog": 9270},
            "working",
            "info",
            f"{LISTENS}, growing: 140/s arrive, 123/",
        ),
        (FULL | {"backlog": None}, "working", "ok", f"{LISTENS}, 5/s; how much waits is not known"),
        (
            FULL | {"consumers": (STUCK, BUSY)},
            "working",
            "warning",
            f"{LISTENS}, 5/s, done in 20 s; the oldest message in h",
        ),
        ({"dispatched": 3, "capacity": None}, "working", "ok", f"{LISTENS}, 0/s; 3 messages unfinished"),
        (
            {"consumers": (IDLE, IDLE, msgspec.structs.replace(BUSY, leaving=True)), "rate": 1.0},
            "working",
            "ok",
            f"{LISTENS}, 1/s",
        ),
        ({"rate": 100.4}, "working", "ok", f"{LISTENS}, 100/s; nothing waits"),
        ({"last_settled": 0.0}, "idle", "ok", f"{LISTENS}; the queue is empty"),
        (
            {"consumers": (SEATED, SEATED)},
            "long",
            "warning",
            "2 of 2 Consumers work on long messages, the oldest a for",
        ),
    ],
)
def test_further_sentences(changes, code, level, sentence):
    """Less usual states have sentences of their own."""
    answer = told(stage(**changes))
    assert (answer.code, answer.level, answer.sentence[: len(sentence)]) == (code, level, sentence)


@pytest.mark.parametrize(
    ("changes", "long"),
    [
        ({"consumers": (STUCK, IDLE)}, False),
        ({"consumers": (STUCK, STUCK), "p95": 8.9}, True),
        ({"consumers": (STUCK, STUCK), "p95": 9.1}, False),
        ({"consumers": (BUSY, BUSY)}, False),
        ({"consumers": (msgspec.structs.replace(SEATED, seats=3),)}, False),
        ({"consumers": (msgspec.structs.replace(SEATED, messages=(*SEATS[:1], InHand(NOW - 1, "c"))),)}, False),
        ({"consumers": (msgspec.structs.replace(SEATED, seats=9, held_since=NOW - 31),)}, True),
        ({"consumers": (STUCK, STUCK, msgspec.structs.replace(IDLE, state="spare"))}, True),
    ],
    ids=["one is idle", "p95", "as usual", "young", "a free seat", "a young one", "one holds it", "a spare one"],
)
def test_long_means_that_nobody_can_begin_anything(changes, long):
    """Every Consumer has only messages of more than 30 s, and of more than 20 times what 95 % of them take."""
    assert (told(stage(**(FULL | changes))).code == "long") is long


LINE = [Place("s", 0, ("t",)), Place("t", 1, ("u",)), Place("u", 2, ())]


def after(name: str, state: str = "running", **changes: Any) -> StageView:
    return msgspec.structs.replace(stage(state, **changes), name=name)


@pytest.mark.parametrize(
    ("views", "line", "sentence"),
    [
        ({}, [], "The output queue is full (9,998 of 10,000): whoever takes from it is slower"),
        ({}, LINE, "The queue of stage t is full (9,998 of 10,000): t runs elsewhere"),
        ({"t": after("t", **FULL)}, LINE, "The queue of stage t is full (9,998 of 10,000): t is slower"),
        (
            {"t": after("t", desired={"listening": False})},
            LINE,
            "The queue of stage t is full (9,998 of 10,000): t is paused",
        ),
        (
            {"t": after("t", **(FULL | {"hold_back": "output"})), "u": after("u", **FULL)},
            LINE,
            "The queue of stage t is full (9,998 of 10,000): t waits for u, which is slower",
        ),
        (
            {"t": after("t", hold_back="output"), "u": after("u", "stopped", actual=False, desired={"running": False})},
            LINE,
            "The queue of stage t is full (9,998 of 10,000): t waits for u, which is stopped",
        ),
        (
            {"t": after("t", hold_back="output"), "u": after("u", hold_back="output")},
            [*LINE[:2], Place("u", 2, ("t",))],
            "The queue of stage t is full (9,998 of 10,000): t waits for u, which is slower",
        ),
    ],
    ids=["no stage", "elsewhere", "slower", "paused", "the next but one", "that is stopped", "a ring"],
)
def test_back_pressure_names_the_stage_where_it_begins(views, line, sentence):
    """Along the line of stages; a ring ends the search."""
    answer = told(stage(**(FULL | OUTPUT)), views=views, line=line, limit=10_000)
    assert (answer.code, answer.sentence) == ("output_full", sentence)


def test_a_queue_that_is_not_full_now_is_not_said_to_be():
    """It was a moment ago, or does not answer: the Producer's own sentence says which."""
    silent = FULL | OUTPUT | {"output_backlog": 5, "problem": "held back: how much it holds is not known"}
    answer = told(stage(**silent), line=LINE, limit=10_000)
    assert answer.sentence == "Held back: how much it holds is not known (it is the input of stage t)"


@pytest.mark.parametrize(
    ("desired", "changes", "level", "end"),
    [
        (PREPARED, {}, "info", "; generation 7 is being prepared"),
        (
            PREPARED,
            {"switch": SwitchState(1, 7, "switch", ready=3, wanted=4)},
            "info",
            "; generation 7 is being prepared, 3 of 4 Consumers are ready",
        ),
        (
            {"undone": (Undone(7, 7, "it raised", WALL - 599, "failed"),)},
            {},
            "warning",
            "undone 9 min 59 s ago: it raised",
        ),
        ({"undone": (Undone(7, 7, "", WALL - 5, "taken back"),)}, {}, "info", "; generation 7 was undone 5 s ago: "),
        ({"undone": (Undone(7, 7, "it raised", WALL - 601, "failed"),)}, {}, "ok", "2 min 0 s"),
        ({"undone": (Undone(7, 7, "x", WALL - 5, "failed"),), "code": 8}, {}, "ok", "2 min 0 s"),
        (
            {"refused": "no such module"},
            {},
            "warning",
            "; generation 1 works on, because what is there now is refused: no such module",
        ),
    ],
    ids=["prepared", "how far", "undone", "taken back", "long ago", "something newer", "refused"],
)
def test_a_change_is_told_besides(desired, changes, level, end):
    """Appended to the sentence, not instead of it; what has failed makes it a warning."""
    answer = told(stage(desired=desired, **changes))
    assert answer.code == "idle"
    assert answer.sentence.startswith(LISTENS)
    assert (answer.level, answer.sentence[-len(end) :]) == (level, end)


HOSTILE = st.text(st.characters(), max_size=900)


@given(
    before=st.sampled_from([each[1] for each in TABLE]),
    then=st.sampled_from([each[1] for each in TABLE]),
    text=HOSTILE,
    name=HOSTILE,
    number=st.floats(0, 1e12),
)
def test_there_is_always_one_printable_line(before, then, text, name, number):
    """Whatever texts and numbers a stage, its code and its messages have: never empty, bounded, nothing to control."""
    view = both(before, then)
    if view.actual is not None:
        consumers = tuple(msgspec.structs.replace(each, message_id=name) for each in view.actual.consumers)
        link = msgspec.structs.replace(view.actual.link, reason=text)
        numbers = {"rate": number, "capacity": number + 1e-9, "arrival_rate": number, "output_backlog": int(number)}
        status = msgspec.structs.replace(view.actual, problem=text, consumers=consumers, link=link, **numbers)
        view = msgspec.structs.replace(view, actual=status)
    answer = told(msgspec.structs.replace(view, problem=text), limit=1000, paused_by=(name, number), line=LINE)
    assert answer.sentence.isprintable()
    assert 0 < len(answer.sentence) <= LONGEST
    assert answer.level in ("ok", "info", "warning", "error")
