"""The desired state of a service: one document, changed by small named changes, kept on disk.

Decisions are pure (`begin`, `change`); `Store` is the file: written whole to a neighbour, synced, renamed. Used by the
Service's main thread. A live change holds until the *configured* value of the same thing changes; then the file of the
configuration wins (decisions 28). A document that cannot be read is renamed aside and the configured state is used.
"""

from typing import Any, Literal

import msgspec

from mqworker.config.model import Config, StageConfig

HISTORY = 20  # parameter versions kept for rollback

LogLevel = Literal["debug", "info", "warning", "error"]


class ParamsVersion(msgspec.Struct, frozen=True):
    """Parameters as they were from one generation on."""

    generation: int
    params: dict[str, Any]


class StageDesired(msgspec.Struct, frozen=True):
    """What one stage should be. `configured` holds the configured values that live ones were set against."""

    running: bool = True  # the tree exists
    listening: bool = True
    working: bool = True
    consumers: int = 1
    soft_limit: float = 0.0
    hard_limit: float = 0.0
    params: dict[str, Any] = {}
    generation: int = 1  # of params and code together
    code: int = 1  # the generation with which the code was loaded last
    history: tuple[ParamsVersion, ...] = ()  # older parameters, the newest last
    configured: dict[str, Any] = {}  # of what was changed live: the value in the configuration then


class Document(msgspec.Struct, frozen=True):
    """The whole desired state."""

    revision: int = 1
    stages: dict[str, StageDesired] = {}
    log_level: LogLevel = "info"
    configured_log_level: str = ""  # set while log_level is live


class _Change(msgspec.Struct, frozen=True, tag=True):
    stage: str


class SetListening(_Change, frozen=True):
    """Take new messages, or not."""

    enabled: bool


class SetWorking(_Change, frozen=True):
    """Compute, or not; the number of Consumers is kept."""

    enabled: bool


class SetConsumers(_Change, frozen=True):
    """How many Consumers."""

    count: int


class SetRunning(_Change, frozen=True):
    """Build the stage's tree or tear it down."""

    enabled: bool


class Reload(_Change, frozen=True):
    """Replace all Consumers by ones that import the code afresh."""


class SetParams(_Change, frozen=True):
    """New parameters, already validated."""

    params: dict[str, Any]


class SetLimits(_Change, frozen=True):
    """Time limits of one message, seconds; 0: none."""

    soft: float
    hard: float


class SetLogLevel(msgspec.Struct, frozen=True, tag=True):
    """What is logged, everywhere."""

    level: LogLevel


Change = SetListening | SetWorking | SetConsumers | SetRunning | Reload | SetParams | SetLimits | SetLogLevel


def begin(old: Document | None, config: Config) -> tuple[Document, list[str]]:
    """Make the document to start with from the stored one and the configuration; and what to tell about it."""
    old = old or Document(revision=0)
    told: list[str] = []
    stages = {name: _begin_stage(old.stages.get(name), name, stage, told) for name, stage in config.stages.items()}
    level, configured = config.service.log_level, ""
    if old.configured_log_level == config.service.log_level:
        level, configured = old.log_level, old.configured_log_level
    elif old.configured_log_level:
        told.append("log_level in the configuration has changed and replaces the value that was set live")
    return Document(old.revision + 1, stages, level, configured), told


def _configured(stage: StageConfig) -> dict[str, Any]:
    return {
        "consumers": stage.consumers,
        "soft_limit": stage.time_limit.soft,
        "hard_limit": stage.time_limit.hard,
        "params": stage.params,
    }


def _begin_stage(old: StageDesired | None, name: str, stage: StageConfig, told: list[str]) -> StageDesired:
    now = _configured(stage)
    if old is None:
        return StageDesired(**now)
    live = {}
    for key in [key for key in now if key in old.configured]:
        if old.configured[key] == now[key]:
            live[key] = getattr(old, key)
        else:
            told.append(
                f"stage {name}: {key} in the configuration has changed and replaces the value that was set live"
            )
    values = now | live
    generation = old.generation + 1  # the code may have changed while nothing ran
    history = old.history
    if values["params"] != old.params:
        history = (*history, ParamsVersion(old.generation, old.params))[-HISTORY:]
    return StageDesired(
        running=old.running,
        listening=old.listening,
        working=old.working,
        generation=generation,
        code=generation,
        history=history,
        configured={key: old.configured[key] for key in live},
        **values,
    )


def change(document: Document, asked: Change, config: Config) -> Document:
    """Apply one change; the same document comes back when it asks for what already is so."""
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
            return msgspec.structs.replace(stage, generation=stage.generation + 1, code=stage.generation + 1)
        case SetParams():
            if asked.params == stage.params:
                return stage
            version = ParamsVersion(stage.generation, stage.params)
            history = (*stage.history, version)[-HISTORY:]
            new = _live(stage, config, params=asked.params)
            return msgspec.structs.replace(new, generation=stage.generation + 1, history=history)
        case _:
            raise TypeError(type(asked))


def _live(stage: StageDesired, config: StageConfig, **values: Any) -> StageDesired:
    if all(getattr(stage, key) == value for key, value in values.items()):
        return stage
    configured = stage.configured | {key: _configured(config)[key] for key in values}
    return msgspec.structs.replace(stage, configured=configured, **values)
