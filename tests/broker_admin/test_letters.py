"""What of a dead letter is listed, which filter it fits, and which group it belongs to."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.amqp import headers
from mqworker.amqp.properties import Properties
from mqworker.broker_admin.letter_filter import fault_of, matcher, when
from mqworker.broker_admin.letter_groups import HOURS, MOST, groups, largest
from mqworker.broker_admin.letter_rows import LONGEST, NAME, SEARCHED, seen
from mqworker.ipc.admin_messages import LetterFilter, LetterRow, fault_key
from mqworker.jobs.place import place_in
from tests.support import amqp

TRACEBACK = """Traceback (most recent call last):
  File "/srv/app/jobs.py", line 12, in handle
    return parse(body)
  File "/srv/app/inner/parse.py", line 7, in parse
    return json.loads(body)["n"]
  File "/usr/lib/python3.11/json/__init__.py", line 346, in loads
    return _default_decoder.decode(s)
KeyError: 'n'
"""
CRASH = """Fatal Python error: Segmentation fault

Current thread 0x00007f (most recent call first):
  File "/srv/venv/lib/python3.11/site-packages/numpy/core.py", line 3 in dot
  File "/srv/app/jobs.py", line 20 in handle
  File "/srv/app/main.py", line 1 in <module>
"""


def letter(**more) -> tuple[bytes, bytes]:
    properties = Properties(message_id=more.pop("message_id", "m-1"), content_type="application/json")
    table = {
        headers.REASON: "error",
        headers.ERROR_TYPE: "ValueError",
        headers.MESSAGE: "device 17 is bad",
        headers.TRACEBACK: TRACEBACK,
        headers.FAILED_AT: "2026-01-02T12:00:00.000Z",
        headers.ATTEMPT: 3,
        headers.GENERATION: 7,
        "tenant": "Ä",
        "large": 2**63 - 1,
        "note": "two\nregion=b",
    }
    for name, value in (table | more).items():
        if value is not None:
            properties.headers[name] = value
    return properties.encode(), b'{"n": 1}'


@pytest.mark.parametrize(
    ("evidence", "place"),
    [
        (TRACEBACK, "parse.py:7 in parse"),
        (CRASH, "jobs.py:20 in handle"),
        ('  File "/usr/lib/python3.11/json/decoder.py", line 3, in decode\n', "json/decoder.py:3 in decode"),
        ("", ""),
        ("killed by SIGKILL", ""),
        ('  File "x", line', ""),
        ('File "x\n", line 1, in f', ""),
    ],
)
def test_the_place_is_the_innermost_one_of_the_users(evidence, place):
    """A traceback has it last, the stack of a crash first; frames of libraries count only if there are no others."""
    assert place_in(evidence) == place


@given(st.text(max_size=200))
def test_any_text_has_a_place_or_none(evidence):
    """Evidence may come from anybody."""
    assert len(place_in(f'{evidence}  File "{evidence}", line 1, in f')) <= NAME


def test_a_row_says_what_a_letter_says():
    """A header with the place goes before the traceback; what is missing is "" or None."""
    row = seen(*letter()).row
    assert (row.reason, row.error_type, row.place, row.text) == (
        *("error", "ValueError", "parse.py:7 in parse", "device 17 is bad"),
    )
    assert (row.attempt, row.generation, row.crashes, row.replayed, row.size, row.ours) == (3, 7, None, 0, 8, True)
    assert (
        seen(*letter(**{headers.PREFIX + "place": "inner/parse.py:7 in parse"})).row.place
        == "inner/parse.py:7 in parse"
    )
    foreign = seen(b"", b"x").row
    assert (foreign.reason, foreign.place, foreign.failed_at, foreign.ours) == ("", "", None, False)


@given(amqp.properties, st.binary(max_size=50))
def test_any_message_has_a_bounded_row(properties, body):
    """The queue may hold anything; a row can be sent as JSON, and has a few hundred bytes."""
    for name in (headers.REASON, headers.MESSAGE, headers.FAILED_AT):
        properties.headers[name] = "\udcff" * 400 if name == headers.MESSAGE else ["x" * 500, {"a": b"\xff"}]
    found = seen(properties.encode(), body)
    assert msgspec.json.decode(msgspec.json.encode(found.row), type=LetterRow) == found.row
    assert len(found.row.text) <= LONGEST
    assert sum(len(name) + len(value) for name, value in found.searched) <= SEARCHED + NAME
    for name in ("message_id", "reason", "error_type", "place", "failed_at", "host", "content_type"):
        assert len(getattr(found.row, name) or "") <= NAME


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ({}, True),
        ({"reason": "error", "error_type": "ValueError", "place": "parse.py:7 in parse"}, True),
        ({"reason": "crash"}, False),
        ({"fault": fault_key("error", "ValueError", "parse.py:7 in parse")}, True),
        ({"fault": fault_key("error", "ValueError", "")}, False),
        ({"text": "M-1"}, True),
        ({"message_id": "m-1"}, True),
        ({"message_id": "m-"}, False),
        ({"text": "DEVICE 17"}, True),
        ({"text": "ä"}, True),
        ({"text": "9223372036854775807"}, True),
        ({"text": "tenant"}, False),
        ({"header": "tenant=Ä"}, True),
        ({"header": "large=9223372036854775807"}, True),
        ({"header": "tenant="}, False),
        ({"header": "note=two\nregion=b"}, True),
        ({"header": "region=b"}, False),
        ({"since": "2026-01-02T12:00:00Z"}, True),
        ({"since": "2026-01-02T13:00:00+01:00"}, True),
        ({"until": "2026-01-02T12:00:00Z"}, False),
        ({"since": "2026-01-01", "until": "2026-01-03"}, True),
        ({"attempt": 3, "generation": 7}, True),
        ({"attempt": 0}, False),
        ({"ids": []}, False),
        ({"ids": [seen(*letter()).row.id]}, True),
    ],
)
def test_a_filter(asked, fits):
    """A letter fits a filter if it fits everything that is given."""
    assert matcher(msgspec.convert(asked, LetterFilter))(seen(*letter())) is fits


@pytest.mark.parametrize("asked", [{"since": "soon"}, {"until": "2026-13-01"}, {"header": "tenant"}])
def test_a_filter_that_cannot_be_meant(asked):
    """It is refused, and the field is named."""
    with pytest.raises(ValueError, match=next(iter(asked))):
        matcher(msgspec.convert(asked, LetterFilter))


def test_a_letter_without_a_time_is_in_no_span():
    """What does not say when it failed fits neither since nor until."""
    found = seen(*letter(**{headers.FAILED_AT: None}))
    assert not matcher(LetterFilter(since="1970-01-01"))(found)
    assert not matcher(LetterFilter(until="2999-01-01"))(found)


FAULTS = st.tuples(*(st.sampled_from(["", "a", "b"]) for _ in range(3)))


@given(st.lists(st.tuples(FAULTS, st.integers(0, 100 * 3600)), max_size=60))
def test_groups_lose_and_double_nothing(failures):
    """Every letter is in one group; a group has its first, its last, and its letters of each of the last 48 hours."""
    now = when("2026-01-10T00:00:00Z") or 0.0
    rows = []
    for number, ((reason, error, place), age) in enumerate(failures):
        hours, rest = divmod(100 * 3600 - age, 3600)
        day, hour = divmod(hours + 20, 24)
        failed = f"2026-01-{5 + day:02}T{hour:02}:{rest // 60:02}:{rest % 60:02}.000Z"
        table = {headers.REASON: reason, headers.ERROR_TYPE: error, headers.PREFIX + "place": place or None}
        more = table | {headers.FAILED_AT: failed, headers.MESSAGE: f"text {number}", headers.TRACEBACK: None}
        rows.append(seen(*letter(**more)).row)
    made = groups(rows, now)
    assert sum(group["count"] for group in made) == len(rows)
    assert [group["count"] for group in made] == sorted((group["count"] for group in made), reverse=True)
    for group in made:
        own = [row for row in rows if fault_of(row) == group["key"]]
        assert group["count"] == len(own)
        assert (group["first"], group["last"]) == (min(r.failed_at for r in own), max(r.failed_at for r in own))
        assert sum(group["hours"]) == sum(now - when(row.failed_at) < HOURS * 3600 for row in own)


def test_only_the_largest_groups_are_told():
    """Foreign letters may each be a group of its own; what is left out is counted."""
    rows = [seen(*letter(**{headers.REASON: f"r{n}"})).row for n in range(MOST + 3)]
    told, other = largest(groups([*rows, rows[-1]], 0.0))
    assert (len(told), told[0]["count"], other) == (MOST, 2, 3)
