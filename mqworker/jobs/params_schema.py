"""Describes a stage's parameters by one JSON Schema for all its jobs, for forms and for callers of the API.

Runs in the code check, beside `params`. A `Params` can demand more than a schema can express (its own validators, types
that JSON does not know): the schema helps to fill in a form, but the code decides. So a field without a schema may be
any JSON value here, and nothing raises: at worst there is no schema.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mqworker.jobs.params import kind_of, takes_any, types_by_field

LARGEST = 256 << 10  # bytes of JSON; a larger schema is of no use to a form
DEEPEST = 60  # levels of nesting; more is a mistake, or recursion
_DEFS = "#/$defs/"

Schema = dict[str, Any]


def schema_of(types: Sequence[type | None]) -> Schema | None:
    """Return the schema of parameters that all these types accept; None stands for a job that takes any mapping.

    Returns None if no job has a `Params`. A field of several jobs must match the schemas of all of them.
    """
    known = [kind for kind in types if kind is not None]
    if not known:
        return None
    result: Schema = {"type": "object", "properties": {}, "required": [], "$defs": {}}
    for number, kind in enumerate(known):
        _add(result, *_own(kind), suffix=f"_{number}" if number else "")
    if len(known) == len(types) and not any(map(takes_any, known)):
        result["additionalProperties"] = False
    try:
        data = json.dumps(result, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return json.loads(data) if len(data) <= LARGEST else None


def _own(kind: type) -> tuple[Schema, dict[str, Schema]]:
    """Return the schema of one type, and the definitions that it refers to."""
    try:
        if kind_of(kind) == "pydantic":
            whole = kind.model_json_schema()  # type: ignore[attr-defined]  # a pydantic model: kind_of says so
            return _target(whole, whole.get("$defs", {})), whole.get("$defs", {})
        (top,), definitions = msgspec.json.schema_components([kind], ref_template=_DEFS + "{name}")
        own, fields = _target(top, definitions), types_by_field(kind)
        given = {name: value for name, value in own.get("properties", {}).items() if name in fields}
        return own | {"properties": given}, dict(definitions)
    except Exception:  # noqa: BLE001 - a type without a schema, or the user's hooks, which may raise anything
        return _field_by_field(kind)


def _target(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    return definitions[schema["$ref"].removeprefix(_DEFS)] if "$ref" in schema else schema


def _field_by_field(kind: type) -> tuple[Schema, dict[str, Schema]]:
    """Return the schema of a type some of whose fields have none."""
    properties: Schema = {}
    definitions: dict[str, Schema] = {}
    try:
        fields = {} if kind_of(kind) == "pydantic" else types_by_field(kind)
        required = [] if kind_of(kind) == "pydantic" else _required(kind)
    except Exception:  # noqa: BLE001 - as above
        return {"properties": {}}, {}
    for name, field_type in fields.items():
        try:
            (properties[name],), more = msgspec.json.schema_components([field_type], ref_template=_DEFS + "{name}")
        except Exception:  # noqa: BLE001 - as above
            properties[name] = {}
        else:
            definitions |= more
    return {"properties": properties, "required": required}, definitions


def _required(kind: type) -> list[str]:
    info: Any = msgspec.inspect.type_info(kind)
    return [field.encode_name for field in info.fields if field.required]


def _add(result: Schema, own: Schema, definitions: dict[str, Schema], suffix: str) -> None:
    """Add one type to the result; the suffix distinguishes different definitions with the same name."""
    present = result["$defs"]
    names = {name: name + suffix if present.get(name, value) != value else name for name, value in definitions.items()}
    present |= {names[name]: _renamed(value, names) for name, value in definitions.items()}
    for name, value in own.get("properties", {}).items():
        wanted, before = _renamed(value, names), result["properties"].get(name)
        result["properties"][name] = wanted if before in (None, wanted) else {"allOf": [before, wanted]}
    result["required"] += [name for name in own.get("required", ()) if name not in result["required"]]
    for key in ("title", "description"):
        if key in own:
            result.setdefault(key, own[key])


def _renamed(value: Any, names: Mapping[str, str], depth: int = 0) -> Any:
    """Return a schema whose references point to the renamed definitions."""
    if depth > DEEPEST:
        return {}
    if isinstance(value, Mapping):
        return {
            key: _DEFS + names.get(inner.removeprefix(_DEFS), inner.removeprefix(_DEFS))
            if key == "$ref" and isinstance(inner, str) and inner.startswith(_DEFS)
            else _renamed(inner, names, depth + 1)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_renamed(inner, names, depth + 1) for inner in value]
    return value
