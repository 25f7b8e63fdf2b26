"""Parameters: merging a change, and checking with the user's three kinds of types."""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqworker.jobs.params import FieldError, ParamsError, merge_patch, to_plain, validate

RFC_7396_APPENDIX_A = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(("target", "patch", "result"), RFC_7396_APPENDIX_A)
def test_a_patch_is_merged_as_the_rfc_says(target, patch, result):
    """Merging yields the table of RFC 7396, appendix A."""
    assert merge_patch(target, patch) == result


def merge_by_the_book(target, patch):
    """Merge by the pseudocode of RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = merge_by_the_book(target.get(name), value)
    return target


@settings(max_examples=100, deadline=None)
@given(JSON, JSON)
def test_merging_is_the_pseudocode_and_changes_neither_argument(target, patch):
    """For any target and patch, merging matches the RFC's definition and changes neither argument."""
    before = repr((target, patch))
    assert merge_patch(target, patch) == merge_by_the_book(target, patch)
    assert repr((target, patch)) == before


def test_a_deep_patch_does_not_overflow_the_stack():
    """Nesting costs only memory."""
    patch = {}
    for _ in range(5_000):
        patch = {"a": patch}
    merged, depth = merge_patch({}, patch), 0
    while merged:
        merged, depth = merged["a"], depth + 1
    assert depth == 5_000


@dataclass
class Swarm:
    size: int
    weight: float = 0.5
    bounds: list[int] = field(default_factory=list)
    best: float = field(default=0.0, init=False)

    def __post_init__(self):
        if self.size == 13:
            raise ValueError("13 is unlucky")
        if self.size == 14:
            raise KeyError("fourteen")


class Filter(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    max_age: Annotated[int, msgspec.Meta(ge=1)] = 300
    swarm: Swarm | None = None


@dataclass
class Unsayable:
    a: int = 0

    def __post_init__(self):
        class OddError(Exception):
            def __str__(self):
                raise RuntimeError("no")

        if self.a:
            raise OddError


@pytest.mark.parametrize(
    ("params", "types", "objects"),
    [
        ({"size": 3}, [Swarm], [Swarm(3)]),
        ({"size": 3, "weight": 1, "bounds": [1, 2]}, [Swarm], [Swarm(3, 1.0, [1, 2])]),
        ({}, [Filter], [Filter()]),
        ({"size": 3, "maxAge": 1}, [Swarm, Filter], [Swarm(3), Filter(1)]),
        ({"swarm": {"size": 1}}, [Filter, Filter], [Filter(300, Swarm(1)), Filter(300, Swarm(1))]),
        ({"size": 3, "anything": 1}, [Swarm, None], [Swarm(3), {"size": 3, "anything": 1}]),
        ({"anything": 1}, [], []),
    ],
)
def test_each_job_gets_its_own_object(params, types, objects):
    """Every type receives the fields it has from the stage's one set of parameters."""
    assert validate(params, types) == objects


@pytest.mark.parametrize(
    ("params", "types", "errors"),
    [
        ({}, [Swarm], [("size", "is required")]),
        ({"size": "x", "weight": []}, [Swarm], [
            ("size", "Expected `int`, got `str`"), ("weight", "Expected `float`, got `array`")]),
        ({"weight": "x"}, [Swarm], [("size", "is required"), ("weight", "Expected `float`, got `str`")]),
        ({"size": 1, "bounds": [1, "x"]}, [Swarm], [("bounds[1]", "Expected `int`, got `str`")]),
        ({"size": 13}, [Swarm], [("", "13 is unlucky")]),
        ({"size": 14}, [Swarm], [("", "KeyError: 'fourteen'")]),
        ({"a": 1}, [Unsayable], [
            ("", "OddError: (its message cannot be shown: str() raised RuntimeError)")]),
        ({"maxAge": 0}, [Filter], [("maxAge", "Expected `int` >= 1")]),
        ({"swarm": {"weight": 1}}, [Filter], [("swarm.size", "is required")]),
        ({"max_age": 1}, [Filter], [("max_age", 'no job has this parameter; did you mean "maxAge"?')]),
        ({"size": 1, "zzz": 1}, [Swarm, Filter], [
            ("zzz", "no job has this parameter; known: bounds, maxAge, size, swarm, weight")]),
        ({"size": 1, "best": 1.0}, [Swarm], [
            ("best", "no job has this parameter; known: bounds, size, weight")]),
        ({"sise": 1, "maxAge": "x"}, [Swarm, Filter], [
            ("sise", 'no job has this parameter; did you mean "size"?'),
            ("size", "is required"), ("maxAge", "Expected `int`, got `str`")]),
        ({"size": "x"}, [Swarm, Swarm], [("size", "Expected `int`, got `str`")]),
    ],
)  # fmt: skip
def test_every_wrong_field_is_told(params, types, errors):
    """One refusal lists everything that is wrong, each with its place and fix."""
    with pytest.raises(ParamsError) as caught:
        validate(params, types)
    assert list(caught.value.errors) == [FieldError(*error) for error in errors]


def test_a_job_without_a_type_gets_a_read_only_mapping():
    """What a job does to its parameters cannot affect another message."""
    given = {"a": 1}
    (mapping,) = validate(given, [None])
    given["a"] = 2
    assert isinstance(mapping, MappingProxyType)
    assert mapping == {"a": 1}


def test_validated_parameters_can_be_shown_with_their_defaults():
    """The parameters in force are shown as one plain dict."""
    shown = to_plain(validate({"size": 2}, [Swarm, Filter]))
    assert shown == {"size": 2, "weight": 0.5, "bounds": [], "maxAge": 300, "swarm": None}
    assert to_plain(validate({"a": 1}, [None])) == {"a": 1}


def test_a_pydantic_model_is_a_params_type():
    """Pydantic is recognised when the user has it."""

    class Model(pydantic.BaseModel):
        size: int = pydantic.Field(ge=1)
        top: int = pydantic.Field(default=1, alias="maxTop")

    class Open(pydantic.BaseModel, extra="allow"):
        pass

    assert validate({"size": 2, "maxTop": 3}, [Model]) == [Model(size=2, maxTop=3)]
    assert to_plain(validate({"size": 2}, [Model])) == {"size": 2, "maxTop": 1}
    assert validate({"size": 2, "other": 1}, [Model, Open])[1].other == 1
    with pytest.raises(ParamsError) as caught:
        validate({"size": 0, "sice": 1, "maxTop": "x"}, [Model])
    assert [error.field for error in caught.value.errors] == ["sice", "size", "maxTop"]
