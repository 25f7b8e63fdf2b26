"""What a change makes of the desired state, field by field, for the audit.

Pure; used on the Service's main loop, where a change is stored. Parameters are compared leaf by leaf. Of a change that
needs other Consumers the difference is that to what will be in force once it is committed. Nothing here is a secret:
the desired state has none.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from mqworker.control.desired_state import Document
from mqworker.control.source_desired import SourceDesired
from mqworker.control.stage_desired import StageDesired, digest_of, value_of
from mqworker.control.switch import committed

VALUE = 200  # bytes of JSON of a value; of a larger one the beginning is shown
FIELDS = 20  # of one change; more are counted


class FieldChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field that has changed; without `old` it was not there before, without `new` it is gone."""

    stage: str  # or source; "" for the service
    field: str  # listening, params.gain, ...
    old: Any = UNSET
    new: Any = UNSET


def difference(old: Document, new: Document) -> tuple[FieldChange, ...]:
    """Return what has changed from one document to the next."""
    found = list(_differences(old, new))
    if len(found) <= FIELDS:
        return tuple(found)
    more = len(found) - FIELDS + 1
    return (*found[: FIELDS - 1], FieldChange("", f"and {more} further fields"))


def _differences(old: Document, new: Document) -> Iterator[FieldChange]:
    if old.log_level != new.log_level:
        yield FieldChange("", "log_level", old.log_level, new.log_level)
    for name, stage in new.stages.items():
        if (before := old.stages.get(name)) is not None and before is not stage:
            yield from _rows(name, fields(before), fields(stage))
    for name, source in new.sources.items():
        if (of_source := old.sources.get(name)) is not None and of_source is not source:
            yield from _rows(name, _source(of_source), _source(source))


def fields(stage: StageDesired) -> dict[str, Any]:
    """Return what an operator can change about a stage, by the names that reports use."""
    ahead = committed(stage)
    chain = [f"{link.name}: {link.job}{'' if link.enabled else ' (disabled)'}" for link in ahead.jobs]
    return {
        "running": stage.running,
        "listening": stage.listening,
        "working": stage.working,
        "consumers": value_of(stage, "consumers"),
        "soft_limit": stage.soft_limit,
        "hard_limit": stage.hard_limit,
        "jobs": chain,
        "code": digest_of(ahead.copy)[:12],
        "generation": ahead.generation,
        **dict(_leaves("params", ahead.params)),
    }


def _source(source: SourceDesired) -> dict[str, Any]:
    return {"running": source.running, "job": source.code.job, "code": digest_of(source.code.copy)[:12]}


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping) or (not value and path != "params"):
        yield path, value
        return
    for key, inner in value.items():
        plain = key.replace("_", "").replace("-", "").isalnum()
        yield from _leaves(f"{path}.{key}" if plain else f"{path}.{msgspec.json.encode(key).decode()}", inner)


def _rows(stage: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[FieldChange]:
    for field in dict.fromkeys((*old, *new)):
        before, after = old.get(field, UNSET), new.get(field, UNSET)
        if _encoded(before) != _encoded(after):  # 1, 1.0 and true are different parameters
            yield FieldChange(stage, field[:VALUE], _short(before), _short(after))


def _encoded(value: Any) -> bytes:
    return b"" if value is UNSET else msgspec.json.encode(value)


def _short(value: Any) -> Any:
    data = _encoded(value)
    return value if len(data) <= VALUE else data[:VALUE].decode(errors="ignore") + " …"
