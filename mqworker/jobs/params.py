"""A stage's parameters: merges changes into them, and validates them with the user's `Params` types.

Runs in the code check (before a change is accepted), in Consumers and in users' tests; pure except for the user's
validation code. A `Params` is a dataclass, a msgspec struct or a pydantic model in a job's module; pydantic is never
imported here, only recognised. Raises `ParamsError`, which lists every field that is wrong.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, NamedTuple, get_type_hints

import msgspec

from mqworker.jobs.failures import message_of


class FieldError(NamedTuple):
    """One thing that is wrong: the field's path ("swarm.size", or "" for the whole) and a sentence."""

    field: str
    message: str


class ParamsError(Exception):
    """The parameters were refused."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(f"{field}: {message}" if field else message for field, message in self.errors))


def merge_patch(target: Any, patch: Any) -> Any:
    """Return `target` with a JSON merge patch applied (RFC 7396); neither argument is changed."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    pending = [(merged, patch)]
    while pending:
        into, changes = pending.pop()
        for name, value in changes.items():
            if value is None:
                into.pop(name, None)
            elif isinstance(value, Mapping):
                old = into.get(name)
                child = into[name] = dict(old) if isinstance(old, Mapping) else {}
                pending.append((child, value))
            else:
                into[name] = value
    return merged


def kind_of(params_type: Any) -> str | None:
    """Return "struct", "dataclass" or "pydantic", or None for anything that cannot validate parameters."""
    if not isinstance(params_type, type):
        return None
    if issubclass(params_type, msgspec.Struct):
        return "struct"
    if dataclasses.is_dataclass(params_type):
        return "dataclass"
    if hasattr(params_type, "model_validate") and hasattr(params_type, "model_fields"):
        return "pydantic"
    return None


def validate(params: Mapping[str, Any], types: Sequence[type | None]) -> list[Any]:
    """Return one object for each type; None stands for a job without a `Params`, which gets a read-only mapping.

    Each type receives the fields it has. A field that no type has is an error, unless a job takes the plain mapping.
    """
    fields = [set() if kind is None else _field_names(kind) for kind in types]
    errors = [] if not types or None in types or any(map(takes_any, types)) else _unknown(params, fields)
    results: list[Any] = []
    for kind, names in zip(types, fields, strict=True):
        if kind is None:
            results.append(MappingProxyType(dict(params)))
            continue
        own = dict(params) if takes_any(kind) else {name: value for name, value in params.items() if name in names}
        try:
            results.append(kind.model_validate(own) if kind_of(kind) == "pydantic" else msgspec.convert(own, kind))  # type: ignore[attr-defined]  # a pydantic model: kind_of says so
        except Exception as exc:  # noqa: BLE001 - the user's validation code may raise anything
            errors += [error for error in _explain(own, kind, exc) if error not in errors]
    if errors:
        raise ParamsError(errors)
    return results


def to_plain(validated: Sequence[Any]) -> dict[str, Any]:
    """Return validated parameters as one JSON-able dict with defaults; values without a plain form as their repr."""
    plain: dict[str, Any] = {}
    for item in validated:
        if isinstance(item, Mapping):
            plain |= item
        elif kind_of(type(item)) == "pydantic":
            plain |= item.model_dump(mode="json", by_alias=True)
        elif dataclasses.is_dataclass(item) and not isinstance(item, type):
            # asdict, because msgspec reads __dict__, in which a converted dataclass lacks plain defaults
            every = dataclasses.asdict(item)
            own = {name: every[name] for name in types_by_field(type(item))}
            plain |= msgspec.to_builtins(own, enc_hook=repr)
        else:
            plain |= msgspec.to_builtins(item, enc_hook=repr)
    return plain


def types_by_field(kind: type) -> dict[str, Any]:
    """Return the types of the fields of a struct or a dataclass, by their names in JSON."""
    if issubclass(kind, msgspec.Struct):
        return {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]  # a dataclass


def _field_names(kind: type) -> set[str]:
    if kind_of(kind) != "pydantic":
        return set(types_by_field(kind))
    fields = kind.model_fields  # type: ignore[attr-defined]  # a pydantic model
    return set(fields) | {str(field.validation_alias or field.alias or name) for name, field in fields.items()}


def takes_any(kind: type | None) -> bool:
    """Return whether a type accepts fields that it does not name."""
    return kind_of(kind) == "pydantic" and kind.model_config.get("extra") == "allow"  # type: ignore[union-attr]  # a pydantic model


def _unknown(params: Mapping[str, Any], fields: Sequence[set[str]]) -> list[FieldError]:
    known = sorted(set().union(*fields))
    errors = []
    for name in params:
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known) or 'none'}"
            errors.append(FieldError(str(name), f"no job has this parameter; {hint}"))
    return errors


def _explain(own: Mapping[str, Any], kind: type, exc: Exception) -> list[FieldError]:
    """Return all errors of a type that rejected its fields, because msgspec stops at the first error."""
    if kind_of(kind) == "pydantic":
        if not hasattr(exc, "errors"):
            return [FieldError("", _sentence(exc))]
        return [FieldError(".".join(map(str, error["loc"])), error["msg"]) for error in exc.errors()]
    info: Any = msgspec.inspect.type_info(kind)
    required = {field.encode_name for field in info.fields if field.required}
    errors = []
    for name, field_type in types_by_field(kind).items():
        if name not in own:
            errors += [FieldError(name, "is required")] if name in required else []
        else:
            try:
                msgspec.convert(own[name], field_type)
            except Exception as error:  # noqa: BLE001 - as in validate
                errors.append(_field_error(name, error))
    return errors or [_field_error("", exc)]


def _field_error(name: str, exc: Exception) -> FieldError:
    """Turn "Expected `int`, got `str` - at `$.c[1]`" into a path and a sentence."""
    text, _, place = _sentence(exc).partition(" - at `$")
    missing = "Object missing required field `"
    path = name + place.rstrip("`")
    if text.startswith(missing):
        return FieldError(f"{path}.{text.removeprefix(missing).rstrip('`')}".strip("."), "is required")
    return FieldError(path.strip("."), text)


def _sentence(exc: Exception) -> str:
    return str(exc) if isinstance(exc, msgspec.ValidationError) else f"{type(exc).__name__}: {message_of(exc)}"
