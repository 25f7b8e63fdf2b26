"""Checks a tree of raw values key by key against the structs, and continues after each problem.

Pure. `Checker.config()` always returns a `Config`: a bad value is replaced by its default (a required one by None) and
its key recorded in `bad`, so that the rules between keys can still be checked for all valid keys.
"""

import datetime as dt
import math
from collections.abc import Callable
from typing import Any, cast

import msgspec
from msgspec.structs import FieldInfo

from mqworker.config import schema
from mqworker.config.errors import ConfigProblem, Key, dotted, excerpt, nearest, quoted
from mqworker.config.model import Config

DEFAULT = "default"
MAX_NESTING = 32
_INT64 = 1 << 63


class Checker:
    """Collects problems, origins and bad keys while it builds the structs."""

    def __init__(self, origin_of: Callable[[Key], str]) -> None:
        self._origin_of = origin_of
        self.problems: list[ConfigProblem] = []
        self.origins: dict[str, str] = {}
        self.bad: set[Key] = set()

    def config(self, raw: dict[str, Any]) -> Config:
        """Check the whole tree."""
        return cast("Config", self._table(Config, raw, ()))

    def _problem(self, key: Key, message: str, fix: str = "") -> None:
        self.bad.add(key)
        self.problems.append(ConfigProblem(self._origin_of(key), dotted(key), message, fix))

    def _table(self, struct: schema.Struct, raw: dict[str, Any], at: Key) -> msgspec.Struct:
        known = schema.fields(struct)
        for name in raw:
            if name not in known:
                self._problem((*at, name), "unknown key", _suggestion(name, known, at))
        return struct(
            **{
                name: value
                for name, field in known.items()
                if (value := self._field(field, raw, (*at, name))) is not msgspec.UNSET
            }
        )

    def _field(self, field: FieldInfo, raw: dict[str, Any], here: Key) -> Any:
        """Return the checked value, or UNSET if the struct's default applies."""
        present = field.name in raw
        value = raw.get(field.name, {})
        table, named = schema.table_of(field.type), schema.named_tables(field.type)
        if not present and field.required:
            self._problem(here, "missing", _how_to_add(here))
            return self._blank(table, here) if table else {} if named else None
        if not present and (table is None or field.default is None):
            self.origins[dotted(here)] = DEFAULT
            return msgspec.UNSET
        if not (table or named):
            return self._leaf(field, value, here)
        if not isinstance(value, dict):
            known = schema.fields(table) if table else {}
            must = "text or a table" if schema.text_is(field.type) else "a table"
            self._problem(here, f"is {_kind(value)}, must be {must}", f"with {', '.join(known)}" if known else "")
            return msgspec.UNSET if not field.required else self._blank(table, here) if table else {}
        if table:
            return self._table(table, value, here)
        return self._stages(field, value, here)

    def _blank(self, table: schema.Struct, here: Key) -> msgspec.Struct:
        """Return a placeholder for a required table that is missing."""
        required = [name for name, field in schema.fields(table).items() if field.required]
        self.bad.update((*here, name) for name in required)
        return table(**dict.fromkeys(required))

    def _stages(self, field: FieldInfo, raw: dict[str, Any], here: Key) -> dict[str, msgspec.Struct]:
        if not raw:
            self._problem(here, "missing", _how_to_add(here))
        named = schema.named_tables(field.type)
        assert named
        built = {}
        for name, value in raw.items():
            if not _fits(name, named[0]):
                self._problem((*here, name), f"the name must be {schema.expected(named[0])}")
            if isinstance(value, dict):
                built[name] = self._table(named[1], value, (*here, name))
            else:
                self._problem((*here, name), f"is {_kind(value)}, must be a table", "write [stages.NAME]")
        return built

    def _leaf(self, field: FieldInfo, value: Any, here: Key) -> Any:
        self.origins[dotted(here)] = self._origin_of(here)
        if self._bad_items(field.type, value, here):
            self.bad.add(here)
            return None if field.required else msgspec.UNSET
        fault = self._fault(field.type, value, here)
        if fault is None and isinstance(value, dict):
            self._user_keys(value, here)
        if fault is None:
            return msgspec.convert(value, field.type)
        self._problem(here, fault if "must" in fault else f"{fault}, must be {schema.expected(field.type)}")
        return None if field.required else msgspec.UNSET

    def _bad_items(self, annotation: Any, value: Any, here: Key) -> bool:
        """Check the tables in a list, if it may hold any; in errors, the index of a table is part of the key."""
        table = schema.table_of(schema.item_of(annotation)) if schema.takes_list(annotation) else None
        before = len(self.problems)
        if table is None or not isinstance(value, list):
            return False
        for number, item in enumerate(value, 1):
            if isinstance(item, dict):
                self._table(table, item, (*here, str(number)))
        return len(self.problems) > before

    def _fault(self, annotation: Any, value: Any, here: Key) -> str | None:
        if _fits(value, annotation):
            return None
        origin = self._origin_of(here)
        if isinstance(value, list) and schema.takes_list(annotation):
            item_type = schema.item_of(annotation)
            for number, item in enumerate(value, 1):
                if not _fits(item, item_type):
                    return f"item {number} is {excerpt(here, item, origin)}, must be {schema.expected(item_type)}"
        if schema.is_free_table(annotation):
            return f"is {_kind(value)}"
        return f"is {excerpt(here, value, origin)}"

    def _user_keys(self, table: dict[str, Any], here: Key) -> None:
        """Record where each parameter came from; accept only values that JSON and MessagePack preserve."""
        for name, value in table.items():
            key = (*here, name)
            self.origins[dotted(key)] = self._origin_of(key)
            if fault := _not_plain(value, MAX_NESTING):
                self._problem(key, fault)


def _fits(value: Any, annotation: Any) -> bool:
    try:
        msgspec.convert(value, annotation)
    except (msgspec.ValidationError, RecursionError, ValueError, OverflowError):
        return False
    return True


def _kind(value: Any) -> str:
    """Return the name of a value's type, without its content, which may be secret."""
    match value:
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "a single value"


def _not_plain(value: Any, levels: int) -> str | None:
    if levels == 0:
        return f"is nested more than {MAX_NESTING} levels deep"
    match value:
        case dict() | list():
            items = value.values() if isinstance(value, dict) else value
            return next(filter(None, (_not_plain(item, levels - 1) for item in items)), None)
        case float() if not math.isfinite(value):
            return f"holds {value}, which JSON cannot carry"
        case int() if not -_INT64 <= value < _INT64:
            return "holds a whole number that needs more than 64 bits"
        case dt.date() | dt.time():
            return "holds a date or time; write it as text"
        case _:
            return None


def _suggestion(name: str, known: dict[str, FieldInfo], at: Key) -> str:
    if close := nearest(name.lower().replace("-", "_"), known):
        return f"did you mean {close}?"
    names = {kind: at[1:2] if at[:1] == (kind,) else ("NAME",) for kind in schema.NAMED}
    for key, _field in schema.keys(names):
        if key[-1] == name:
            return f"did you mean {dotted(key)}?"
    return f"known keys: {', '.join(known)}" if at else "the tables are [service], [control], [broker], [stages.NAME]"


def _how_to_add(key: Key) -> str:
    match key[-1]:
        case "stages":
            return "add a table [stages.NAME] with input and jobs; `mqworker init` creates an example"
        case "jobs":
            return 'add jobs = ["module:name"]'
        case "exec":
            return 'write { exec = ["./program"] }'
        case last:
            return f"add {last} = {quoted('NAME')}"
