"""Reads the structs of `mqworker.config.model`: which keys there are, and a description of what each may hold.

Pure. There are three shapes besides plain values: a struct is a table, a dict of structs is one table for each name
(such as the stages), any other dict is a table of the user's own keys (params).
"""

from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import msgspec
from msgspec import inspect
from msgspec.structs import FieldInfo

from mqworker.config.errors import Key
from mqworker.config.model import Config

Struct = type[msgspec.Struct]


def fields(struct: Struct) -> dict[str, FieldInfo]:
    """Return the keys of a table."""
    return {field.name: field for field in msgspec.structs.fields(struct)}


def options(annotation: Any) -> tuple[Any, ...]:
    """Return the types that a value may have, stripped of their constraints."""
    if get_origin(annotation) is Annotated:
        return options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(option for part in get_args(annotation) for option in options(part))
    return (annotation,)


def table_of(annotation: Any) -> Struct | None:
    """Return the struct if the type is a table."""
    structs = (one for one in options(annotation) if isinstance(one, type) and issubclass(one, msgspec.Struct))
    return next(structs, None)


def text_is(annotation: Any) -> str:
    """Return the key that is set by a text in place of a table of this type; "" if it must be a table."""
    table = table_of(annotation)
    return str(getattr(table, "text_is", ""))


def named_tables(annotation: Any) -> tuple[Any, Struct] | None:
    """Return (type of the names, struct) if the type is a table of named tables, such as `stages`; else None."""
    (first, *_) = options(annotation)
    if get_origin(first) is not dict:
        return None
    name, value = get_args(first)
    struct = table_of(value)
    return (name, struct) if struct else None


NAMED = tuple(name for name, field in fields(Config).items() if named_tables(field.type))  # one table for each name


def is_free_table(annotation: Any) -> bool:
    """Return whether this is a table of the user's own keys."""
    return get_origin(options(annotation)[0]) is dict and named_tables(annotation) is None


def takes_text(annotation: Any) -> bool:
    """Return whether text is a possible value, but a number is not."""
    possible = options(annotation)
    return int not in possible and any(one is str or get_origin(one) is Literal for one in possible)


def takes_list(annotation: Any) -> bool:
    """Return whether a list is a possible value."""
    return any(get_origin(one) is tuple for one in options(annotation))


def item_of(annotation: Any) -> Any:
    """Return the type of a list's items."""
    return next(get_args(one)[0] for one in options(annotation) if get_origin(one) is tuple)


def keys(names: Mapping[str, Iterable[str]], struct: Struct = Config, at: Key = ()) -> Iterator[tuple[Key, FieldInfo]]:
    """Yield all keys, each table before its content; `names` are the names of the tables of each kind in NAMED."""
    for name, field in fields(struct).items():
        here = (*at, name)
        if named := named_tables(field.type):
            for each in names.get(name, ()):
                yield from keys({}, named[1], (*here, each))
            continue
        yield here, field
        if inner := table_of(field.type):
            yield from keys({}, inner, here)


def description(field: FieldInfo) -> tuple[str, str]:
    """Return what a key means, and its default as text where the struct's value does not show it."""
    text = default = ""
    for meta in getattr(field.type, "__metadata__", ()):
        text = meta.description or text
        default = (meta.extra or {}).get("default", default)
    return text, default


def expected(annotation: Any) -> str:
    """Describe what a value must be: "a whole number from 1 to 600"."""
    return _describe(inspect.type_info(annotation))


def _describe(node: inspect.Type) -> str:  # noqa: C901, PLR0911 - one case for each type
    match node:
        case inspect.Metadata(type=inner, extra_json_schema=schema):
            return cast("str", (schema or {}).get("title")) or _describe(inner)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number{_range(node)}"
        case inspect.FloatType():
            return f"a number{_range(node)}"
        case inspect.LiteralType(values=(only,)):
            return f"`{only}`"
        case inspect.LiteralType(values=values):
            return f"one of {', '.join(map(str, values))}"
        case inspect.StrType(min_length=low, max_length=high):
            return f"text of {low or 0} to {high} characters" if high else "text, not empty" if low else "text"
        case inspect.VarTupleType(item_type=item, min_length=low):
            return f"a list{' of at least one' if low else ''}, each {_describe(item)}"
        case inspect.UnionType(types=types):
            return " or ".join(_describe(one) for one in types if not isinstance(one, inspect.NoneType))
        case inspect.StructType(cls=table) if text_is(table):
            return "text or a table"
        case _:
            return "a table"


def _range(node: inspect.IntType | inspect.FloatType) -> str:
    above, low, high = node.gt, node.ge, node.le
    if above is not None:
        return f" above {above:g} and at most {high:g}"
    return f" from {low:.0f} to {high:.0f}"
