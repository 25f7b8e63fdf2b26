"""The schema of a stage's parameters: for the three kinds of types, for several jobs, and for whatever has none."""

import dataclasses
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest
from msgspec import Meta

from mqworker.jobs.params import ParamsError, validate
from mqworker.jobs.params_schema import schema_of


class Inner(msgspec.Struct):
    size: Annotated[int, Meta(ge=1, le=10)] = 5


class Gains(msgspec.Struct):
    """How strong it is."""

    gain: Annotated[float, Meta(gt=0, description="of the filter")]
    mode: Literal["fast", "exact"] = "fast"
    inner: Inner = msgspec.field(default_factory=Inner)


@dataclasses.dataclass
class Plain:
    gain: float
    names: list[str] = dataclasses.field(default_factory=list)
    derived: int = dataclasses.field(default=0, init=False)


class Model(pydantic.BaseModel):
    count: int = pydantic.Field(3, ge=0, alias="Count")
    inner: "ModelInner | None" = None


class ModelInner(pydantic.BaseModel):
    deep: bool = True


class Open(pydantic.BaseModel, extra="allow"):
    known: int = 1


class Strange:
    """Nothing that JSON knows."""


@dataclasses.dataclass
class WithStrange:
    size: Annotated[int, Meta(ge=1)]
    strange: Strange = dataclasses.field(default_factory=Strange)


def test_a_struct():
    """Types, ranges, choices, descriptions and defaults of a struct are told; what it refers to stands beside."""
    schema = schema_of([Gains])
    assert schema["properties"]["gain"] == {"type": "number", "exclusiveMinimum": 0, "description": "of the filter"}
    assert schema["properties"]["mode"] == {"enum": ["exact", "fast"], "default": "fast"}
    assert schema["properties"]["inner"]["$ref"] == "#/$defs/Inner"
    assert schema["$defs"]["Inner"]["properties"]["size"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 10,
        "default": 5,
    }
    assert (schema["required"], schema["description"]) == (["gain"], "How strong it is.")
    assert (schema["type"], schema["additionalProperties"]) == ("object", False)


def test_a_dataclass_and_a_model():
    """So are those of a dataclass, and of a pydantic model by its aliases."""
    schema = schema_of([Plain, Model])
    assert list(schema["properties"]) == ["gain", "names", "Count", "inner"]
    assert schema["properties"]["names"]["items"] == {"type": "string"}
    assert (schema["properties"]["Count"]["minimum"], schema["required"]) == (0, ["gain"])
    assert schema["$defs"]["ModelInner"]["properties"]["deep"]["type"] == "boolean"


def test_a_field_of_two_jobs_is_what_both_want():
    """A parameter that two jobs read has to satisfy both; the same form is told once."""
    schema = schema_of([Gains, Plain])
    assert [each.get("exclusiveMinimum") for each in schema["properties"]["gain"]["allOf"]] == [0, None]
    assert schema_of([Gains, Gains]) == schema_of([Gains])


def test_equal_names_of_different_types_are_told_apart():
    """Each reference leads to its own type's definition."""

    def made(maximum: int) -> type:
        inner = msgspec.defstruct("Same", [("n", Annotated[int, Meta(le=maximum)])])
        return msgspec.defstruct("Params", [(f"field{maximum}", inner), (f"list{maximum}", list[inner])])

    schema = schema_of([made(1), made(2)])
    for maximum in (1, 2):
        for place in (schema["properties"][f"field{maximum}"], schema["properties"][f"list{maximum}"]["items"]):
            name = place["$ref"].removeprefix("#/$defs/")
            assert schema["$defs"][name]["properties"]["n"]["maximum"] == maximum


@pytest.mark.parametrize(("types", "closed"), [([Gains], True), ([Gains, None], False), ([Open], False)])
def test_whether_other_fields_are_accepted(types, closed):
    """The schema forbids unknown fields where the code does, and only there."""
    assert (schema_of(types).get("additionalProperties") is False) == closed
    try:
        validate({"gain": 1.0, "unheard_of": 1}, types)
        refused = False
    except ParamsError as error:
        refused = any(each.field == "unheard_of" for each in error.errors)
    assert refused == closed


@pytest.mark.parametrize("types", [[], [None], [None, None]])
def test_a_job_that_does_not_say(types):
    """Where no job says what it takes there is no schema."""
    assert schema_of(types) is None


def test_a_field_without_a_schema_is_any_value():
    """A type that JSON does not know costs its own field only."""
    schema = schema_of([WithStrange])
    assert schema["properties"] == {"size": {"type": "integer", "minimum": 1}, "strange": {}}
    assert schema["required"] == ["size"]


def test_hooks_that_raise_are_no_fault_of_ours():
    """A model whose own hook raises, and one that is far too large, leave a form without fields, or none."""

    class Raises(pydantic.BaseModel):
        size: int = 1

        @classmethod
        def model_json_schema(cls, *_: Any, **__: Any) -> Any:
            raise RuntimeError("no schema today")

    assert schema_of([Raises])["properties"] == {}
    large = msgspec.defstruct("Large", [(f"field_{n}_{'x' * 200}", int, 0) for n in range(2000)])
    assert schema_of([large]) is None


def test_a_recursive_type_ends():
    """A type that contains itself is told by a reference."""
    node = msgspec.defstruct("Node", [("size", int)], namespace={"__annotations__": {}})
    tree = msgspec.defstruct("Tree", [("node", node), ("children", "list[Tree]", msgspec.field(default_factory=list))])
    globals()["Tree"] = tree
    schema = schema_of([tree])
    assert schema["properties"]["children"]["items"]["$ref"] == "#/$defs/Tree"
    assert set(schema["$defs"]) == {"Node", "Tree"}
