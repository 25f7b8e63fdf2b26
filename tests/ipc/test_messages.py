"""The records that cross process boundaries."""

import inspect

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect as types

from mqworker.config.model import BrokerConfig, InputConfig, StageConfig
from mqworker.ipc import (
    check_messages,
    consumer_messages,
    generation,
    histogram,
    inspection,
    producer_messages,
    records,
    stage_spec,
    stage_status,
)
from mqworker.ipc.admin_messages import AdminAnswer, AdminQuestion

pytestmark = pytest.mark.untraced  # slow under it, and other tests show what is covered

MODULES = (
    *(records, generation, stage_spec, producer_messages, stage_status, consumer_messages, check_messages, histogram),
    inspection,
)
CLASSES = [
    kind
    for module in MODULES
    for name, kind in inspect.getmembers(module, inspect.isclass)
    if kind.__module__ == module.__name__ and not name.startswith("_")
]
RECORDS = [kind for kind in CLASSES if issubclass(kind, msgspec.Struct)] + [AdminQuestion, AdminAnswer]
STAYS = {histogram.Histogram}  # counts in a Producer; its `times` cross
PUBLIC = [kind for kind in RECORDS if kind is not records.TaggedRecord]
ANSWER = AdminAnswer | records.LogEvent
UNIONS = (producer_messages.Order, producer_messages.Report, consumer_messages.Uplink, ANSWER)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
plain = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | text | st.binary(max_size=8)
anything = st.recursive(plain, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2))
CONFIGS = {
    StageConfig: st.builds(
        StageConfig, input=st.just(InputConfig(queue="in")), jobs=st.just(("a:b",)), params=st.just({"a": [1, None]})
    ),
    BrokerConfig: st.builds(BrokerConfig, url=st.sampled_from(["", ("amqp://a", "amqp://b")])),
}


def values(kind: types.Type) -> st.SearchStrategy:
    """Any value of a record's field."""
    match kind:
        case types.StructType(cls=cls) if cls in CONFIGS:
            return CONFIGS[cls]
        case types.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: values(field.type) for field in fields})
        case types.UnionType(types=members):
            return st.one_of([values(member) for member in members])
        case types.ListType(item_type=item):
            return st.lists(values(item), max_size=3)
        case types.VarTupleType(item_type=item):
            return st.lists(values(item), max_size=3).map(tuple)
        case types.TupleType(item_types=items):
            return st.tuples(*map(values, items))
        case types.DictType(value_type=item):
            return st.dictionaries(text, values(item), max_size=3)
    return {
        types.IntType: st.integers(-(1 << 63), (1 << 63) - 1),
        types.FloatType: st.floats(allow_nan=False),
        types.BoolType: st.booleans(),
        types.StrType: text,
        types.BytesType: st.binary(max_size=8),
        types.NoneType: st.none(),
        types.AnyType: anything,
    }[type(kind)]


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=30)
def test_a_record_arrives_as_it_was_sent(kind, data):
    """Every record survives MessagePack, as its own type and as part of each union that carries it."""
    record = data.draw(values(types.type_info(kind)))
    packed = msgspec.msgpack.encode(record)
    assert msgspec.msgpack.decode(packed, type=kind) == record
    for union in UNIONS:
        if kind in union.__args__:
            assert msgspec.msgpack.decode(packed, type=union) == record


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_a_record_is_frozen(kind):
    """Neither side can change a record that crosses a process boundary, nor what it holds."""
    assert kind.__struct_config__.frozen
    for field in types.type_info(kind).fields if kind in PUBLIC else ():
        if isinstance(field.type, types.StructType):
            assert field.type.cls.__struct_config__.frozen


def test_all_that_these_modules_define_is_a_record():
    """So none goes untested because it is of another kind; a NamedTuple is tested with the record that holds it."""
    named_tuples = {kind for kind in CLASSES if issubclass(kind, tuple) and hasattr(kind, "_fields")}
    assert set(CLASSES) - set(RECORDS) - named_tuples == STAYS


def test_tags_are_unique():
    """Each member of a union has its own tag."""
    tags = [kind.__struct_config__.tag for kind in PUBLIC if kind.__struct_config__.tag]
    assert len(tags) == len(set(tags))
