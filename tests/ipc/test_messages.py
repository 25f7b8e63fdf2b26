"""The records that cross process boundaries: all that their modules define, found by looking into these."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from types import UnionType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect as types

import mqworker
from mqworker.config.model import BrokerConfig, InputConfig, SourceConfig, StageConfig
from mqworker.ipc import admin_messages, histogram, records, source_messages
from mqworker.shared_state import messages as shared_messages

pytestmark = pytest.mark.untraced  # slow under it, and other tests show what is covered


def own_classes(module: Any) -> list[type]:
    """Return the public classes that a module defines."""
    found = inspect.getmembers(module, inspect.isclass)
    return [kind for name, kind in found if kind.__module__ == module.__name__ and not name.startswith("_")]


def is_record(kind: Any) -> bool:
    """Whether this is a class of records."""
    return inspect.isclass(kind) and issubclass(kind, msgspec.Struct)


NAMES = [found.name for found in pkgutil.walk_packages(mqworker.__path__, "mqworker.")]
ALL = [
    importlib.import_module(name) for name in NAMES if name.startswith("mqworker.ipc.") or name.endswith(".messages")
]
MODULES = [module for module in ALL if any(map(is_record, own_classes(module)))]
CLASSES = [kind for module in MODULES for kind in own_classes(module)]
STAYS = {histogram.Histogram}  # counts in a Producer; its `times` cross
RECORDS = [kind for kind in CLASSES if is_record(kind) and kind is not records.TaggedRecord]
UNIONS = {
    name: union
    for module in MODULES
    for name, union in vars(module).items()
    if isinstance(union, UnionType) and all(map(is_record, union.__args__))
}

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
plain = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | text | st.binary(max_size=8)
anything = st.recursive(plain, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2))
CONFIGS = {
    StageConfig: st.builds(
        StageConfig, input=st.just(InputConfig(queue="in")), jobs=st.just(("a:b",)), params=st.just({"a": [1, None]})
    ),
    BrokerConfig: st.builds(BrokerConfig, url=st.sampled_from(["", ("amqp://a", "amqp://b")])),
    SourceConfig: st.builds(SourceConfig, job=st.just("a:b"), into=st.just("s"), every=st.sampled_from([None, "10 s"])),
}
PLAIN: dict[type, Callable[[Any], st.SearchStrategy]] = {
    types.IntType: lambda kind: st.integers(
        -(1 << 63) if kind.ge is None else kind.ge, (1 << 63) - 1 if kind.le is None else kind.le
    ),
    types.FloatType: lambda _: st.floats(allow_nan=False),
    types.BoolType: lambda _: st.booleans(),
    types.StrType: lambda kind: text.filter(lambda value: len(value) >= (kind.min_length or 0)),
    types.BytesType: lambda _: st.binary(max_size=8),
    types.NoneType: lambda _: st.none(),
    types.LiteralType: lambda kind: st.sampled_from(kind.values),
    types.AnyType: lambda _: anything,
}


def values(kind: types.Type) -> st.SearchStrategy:
    """Any value of a record's field."""
    match kind:
        case types.StructType(cls=cls) if cls in CONFIGS:
            return CONFIGS[cls]
        case types.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: field_values(field) for field in fields})
        case types.UnionType(types=members):
            return st.one_of([values(member) for member in members])
        case types.ListType(item_type=item):
            return st.lists(values(item), max_size=3)
        case types.VarTupleType(item_type=item):
            return st.lists(values(item), max_size=3).map(tuple)
        case types.TupleType(item_types=items):
            return st.tuples(*map(values, items))
        case types.DictType(key_type=types.StrType(), value_type=item):
            return st.dictionaries(text, values(item), max_size=3)
        case types.Metadata(type=inner):
            return values(inner)
    return PLAIN[type(kind)](kind)


def field_values(field: types.Field) -> st.SearchStrategy:
    """Any value of a field, also its default."""
    default = field.default
    return values(field.type) if default is msgspec.NODEFAULT else st.just(default) | values(field.type)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=15)
def test_a_record_arrives_as_it_was_sent(kind, data):
    """Every record survives MessagePack, as its own type and as part of each union that carries it."""
    record = data.draw(values(types.type_info(kind)))
    packed = msgspec.msgpack.encode(record)
    assert msgspec.msgpack.decode(packed, type=kind) == record
    for union in UNIONS.values():
        if kind in union.__args__:
            assert msgspec.msgpack.decode(packed, type=union) == record


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_a_record_is_frozen(kind):
    """Neither side can change a record that crosses a process boundary, nor what it holds."""
    assert kind.__struct_config__.frozen
    for field in types.type_info(kind).fields:
        if isinstance(field.type, types.StructType):
            assert field.type.cls.__struct_config__.frozen


def test_all_that_these_modules_define_is_a_record():
    """So none goes untested because it is of another kind; a NamedTuple is tested with the record that holds it."""
    named_tuples = {kind for kind in CLASSES if issubclass(kind, tuple) and hasattr(kind, "_fields")}
    assert set(CLASSES) - set(RECORDS) - named_tuples == STAYS | {records.TaggedRecord}


def test_all_modules_of_messages_are_found():
    """Those that `ipc/records` names; and every union of what a process receives is found in them."""
    named = [line.split()[-1] for line in (records.__doc__ or "").splitlines() if "-->" in line]
    assert len(named) == 6
    assert {f"mqworker.{'' if '/' in name else 'ipc.'}{name.replace('/', '.')}" for name in named} <= {
        module.__name__ for module in MODULES
    }
    assert {admin_messages.BulkView, source_messages.Tick, shared_messages.TickEntry} <= set(RECORDS)
    assert {"Order", "Report", "Uplink", "AdminReport", "CheckReport", "SourceOrder", "SharedOrder"} <= UNIONS.keys()


@pytest.mark.parametrize("union", UNIONS.values(), ids=UNIONS)
def test_tags_are_unique(union):
    """Each member of a union has its own tag."""
    tags = [kind.__struct_config__.tag for kind in union.__args__]
    assert None not in tags
    assert len(tags) == len(set(tags))
