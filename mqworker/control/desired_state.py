"""The desired state of a service: one document, changed by small named changes.

Pure; used by the Service's main thread, which keeps the document in a file (store.py). A live change is kept until the
*configured* value of the same thing changes; then the configuration file wins (decisions 28).
"""

from typing import Any, Literal

import msgspec

from mqworker.config.model import Config, StageConfig
from mqworker.ipc.messages import CodeCopy

HISTORY = 20  # parameter versions kept for rollback

LogLevel = Literal["debug", "info", "warning", "error"]


class ParamsVersion(msgspec.Struct, frozen=True, omit_defaults=True):
    """The parameters of an earlier generation."""

    generation: int
    params: dict[str, Any]
    of: int = 0  # see StageDesired


class StageDesired(msgspec.Struct, frozen=True):
    """The desired state of one stage. `configured`: of each value changed live, the configured value at that time."""

    running: bool = True  # the tree exists
    listening: bool = True
    working: bool = True
    consumers: int = 1
    soft_limit: float = 0.0
    hard_limit: float = 0.0
    params: dict[str, Any] = {}
    generation: int = 1  # of params and code together
    code: int = 1  # the generation with which the code was loaded last
    copy: CodeCopy | None = None  # of that code; None: it is whatever the folder has
    of: int = 0  # the generation whose parameters a rollback brought back; 0: the parameters are new
    history: tuple[ParamsVersion, ...] = ()  # older parameters, the newest last
    configured: dict[str, Any] = {}  # for each value changed live: the configured value at that time


class Document(msgspec.Struct, frozen=True):
    """The whole desired state."""

    revision: int = 1
    stages: dict[str, StageDesired] = {}
    log_level: LogLevel = "info"
    configured_log_level: str = ""  # set while log_level is live


class _Change(msgspec.Struct, frozen=True, tag=True):
    stage: str


class SetListening(_Change, frozen=True):
    """Switch taking new messages on or off."""

    enabled: bool


class SetWorking(_Change, frozen=True):
    """Switch computing on or off; the number of Consumers is kept."""

    enabled: bool


class SetConsumers(_Change, frozen=True):
    """How many Consumers."""

    count: int


class SetRunning(_Change, frozen=True):
    """Build the stage's tree or tear it down."""

    enabled: bool


class Reload(_Change, frozen=True):
    """Replace all Consumers with new ones, which import this code, already checked."""

    copy: CodeCopy | None = None


class SetParams(_Change, frozen=True):
    """New parameters, already validated; or, with `of`, those of an earlier generation."""

    params: dict[str, Any]
    of: int = 0


class SetLimits(_Change, frozen=True):
    """Time limits of one message, seconds; 0: none."""

    soft: float
    hard: float


class SetLogLevel(msgspec.Struct, frozen=True, tag=True):
    """What is logged, everywhere."""

    level: LogLevel


Change = SetListening | SetWorking | SetConsumers | SetRunning | Reload | SetParams | SetLimits | SetLogLevel


def begin(old: Document | None, config: Config) -> tuple[Document, list[str]]:
    """Return the initial document, made from the stored one and the configuration, and what to report about it."""
    old = old or Document(revision=0)
    notes: list[str] = []
    stages = {name: _begin_stage(old.stages.get(name), name, stage, notes) for name, stage in config.stages.items()}
    level, configured = config.service.log_level, ""
    if old.configured_log_level == config.service.log_level:
        level, configured = old.log_level, old.configured_log_level
    elif old.configured_log_level:
        notes.append("log_level in the configuration has changed and replaces the value that was set live")
    return Document(old.revision + 1, stages, level, configured), notes


def _configured(stage: StageConfig) -> dict[str, Any]:
    return {
        "consumers": stage.consumers,
        "soft_limit": stage.time_limit.soft,
        "hard_limit": stage.time_limit.hard,
        "params": stage.params,
    }


def _begin_stage(old: StageDesired | None, name: str, stage: StageConfig, notes: list[str]) -> StageDesired:
    now = _configured(stage)
    if old is None:
        return StageDesired(**now)
    live = {}
    for key in [key for key in now if key in old.configured]:
        if old.configured[key] == now[key]:
            live[key] = getattr(old, key)
        else:
            notes.append(
                f"stage {name}: {key} in the configuration has changed and replaces the value that was set live"
            )
    values = now | live
    generation = old.generation + 1  # the code may have changed while nothing ran
    history, of = old.history, old.of
    if values["params"] != old.params:
        history, of = _with_present(old), 0
    return StageDesired(
        running=old.running,
        listening=old.listening,
        working=old.working,
        generation=generation,
        code=generation,
        copy=old.copy,  # until the start has looked at the folder
        of=of,
        history=history,
        configured={key: old.configured[key] for key in live},
        **values,
    )


def change(document: Document, asked: Change, config: Config) -> Document:
    """Apply one change; returns the same document if the change has no effect."""
    if isinstance(asked, SetLogLevel):
        if asked.level == document.log_level:
            return document
        new = msgspec.structs.replace(document, log_level=asked.level, configured_log_level=config.service.log_level)
    else:
        stage = document.stages[asked.stage]
        changed = _change_stage(stage, asked, config.stages[asked.stage])
        new = msgspec.structs.replace(document, stages=document.stages | {asked.stage: changed})
    return document if new == document else msgspec.structs.replace(new, revision=document.revision + 1)


def _change_stage(stage: StageDesired, asked: Change, config: StageConfig) -> StageDesired:  # noqa: PLR0911 - one each
    match asked:
        case SetListening():
            return msgspec.structs.replace(stage, listening=asked.enabled)
        case SetWorking():
            return msgspec.structs.replace(stage, working=asked.enabled)
        case SetRunning():
            return msgspec.structs.replace(stage, running=asked.enabled)
        case SetConsumers():
            return _live(stage, config, consumers=asked.count)
        case SetLimits():
            return _live(stage, config, soft_limit=asked.soft, hard_limit=asked.hard)
        case Reload():
            number = stage.generation + 1
            return msgspec.structs.replace(stage, generation=number, code=number, copy=asked.copy)
        case SetParams():
            if asked.params == stage.params:
                return stage
            new = _live(stage, config, params=asked.params)
            history = _with_present(stage)
            return msgspec.structs.replace(new, generation=stage.generation + 1, of=asked.of, history=history)
        case _:
            raise TypeError(type(asked))


def with_copies(document: Document, copies: dict[str, CodeCopy | None]) -> Document:
    """Return the initial document with the code that was found at the start, by stage."""
    stages = {name: msgspec.structs.replace(stage, copy=copies[name]) for name, stage in document.stages.items()}
    return msgspec.structs.replace(document, stages=stages)


def copies(document: Document) -> list[CodeCopy]:
    """Return the copies of code that the stages use."""
    return [stage.copy for stage in document.stages.values() if stage.copy is not None]


def rollback(document: Document, name: str) -> SetParams | None:
    """Return the change that brings back a stage's earlier parameters, or None when there are none.

    They are the newest ones older than the version in use, so that a second rollback goes further back instead of
    alternating between two versions.
    """
    stage = document.stages[name]
    origin = stage.of or stage.generation
    for version in reversed(stage.history):
        if version.generation < origin and version.params != stage.params:
            return SetParams(name, version.params, version.of or version.generation)
    return None


def _with_present(stage: StageDesired) -> tuple[ParamsVersion, ...]:
    return (*stage.history, ParamsVersion(stage.generation, stage.params, stage.of))[-HISTORY:]


def _live(stage: StageDesired, config: StageConfig, **values: Any) -> StageDesired:
    if all(getattr(stage, key) == value for key, value in values.items()):
        return stage
    configured = stage.configured | {key: _configured(config)[key] for key in values}
    return msgspec.structs.replace(stage, configured=configured, **values)
