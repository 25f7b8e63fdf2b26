"""What a change is told to have changed: applied to what was there before, it gives what is there after."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from mqworker.config.model import Config, StageConfig
from mqworker.control import desired_state
from mqworker.control.desired_state import Document
from mqworker.control.difference import FIELDS, VALUE, difference, fields
from mqworker.control.stage_desired import Candidate, StageDesired

CONFIG = Config(stages={"s": StageConfig(input="in", jobs=("m:f",))})
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5)
NAMES = st.sampled_from(["a", "b", "a.b", '"', "", "params", "é", "a b"])
PARAMS = st.dictionaries(
    NAMES, st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=3)), max_size=3
)
STAGES = st.builds(
    StageDesired,
    running=st.booleans(),
    listening=st.booleans(),
    consumers=st.integers(0, 4),
    auto=st.booleans(),
    params=PARAMS,
    generation=st.integers(1, 3),
)


@given(STAGES, STAGES)
def test_the_difference_leads_from_one_to_the_other(old, new):
    """Fields that are not told are the same before and after; those that are told were, and are, as told."""
    rows = difference(Document(stages={"s": old}), Document(stages={"s": new}))
    result: dict[str, Any] = fields(old)
    if len(rows) == FIELDS:
        return
    for row in rows:
        assert msgspec.json.encode(result.get(row.field, UNSET) is UNSET) == msgspec.json.encode(row.old is UNSET)
        if row.new is UNSET:
            del result[row.field]
        else:
            result[row.field] = row.new
    assert msgspec.json.encode(result, order="sorted") == msgspec.json.encode(fields(new), order="sorted")


def test_equal_to_python_is_not_equal_to_a_job():
    """1, 1.0 and true are different parameters."""
    one, other = (Document(stages={"s": StageDesired(params={"a": value})}) for value in (1, True))
    assert [(row.field, row.old, row.new) for row in difference(one, other)] == [("params.a", 1, True)]


def test_a_change_that_is_being_prepared_is_told_as_it_will_be():
    """Of a candidate, that is what will be in force once it is committed; its commit is no further change."""
    old = StageDesired(params={"a": 1}, generation=4)
    version = msgspec.structs.replace(old.version, params={"a": 2}, generation=5)
    prepared = msgspec.structs.replace(old, candidate=Candidate(version, 5, "", "", {}))
    before, after = (Document(stages={"s": stage}) for stage in (old, prepared))
    assert [(row.field, row.old, row.new) for row in difference(before, after)] == [
        ("generation", 4, 5),
        ("params.a", 1, 2),
    ]
    committed = desired_state.change(after, desired_state.Commit("s", 5), CONFIG)
    assert difference(after, committed) == ()


def test_it_is_bounded():
    """Large values are cut, and of very many fields the rest is counted."""
    old, new = (
        Document(stages={"s": StageDesired()}),
        Document(stages={"s": StageDesired(params={"a": "x" * 10_000, **{f"b{n}": n for n in range(100)}})}),
    )
    rows = difference(old, new)
    assert (len(rows), rows[-1].field) == (FIELDS, "and 82 further fields")
    assert len(rows[0].new) <= VALUE + 2
