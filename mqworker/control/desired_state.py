"""The desired state of a service: one document, changed by small named changes.

Pure; used by the Service's main thread, which keeps the document in a file (store.py). A live change is kept until the
*configured* value of the same thing changes; then the configuration file wins (decisions 28).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from mqworker.config.model import Config, StageConfig
from mqworker.control.chain import Link, enabled, links
from mqworker.ipc.messages import CodeCopy

HISTORY = 20  # earlier generations kept for rollback

LogLevel = Literal["debug", "info", "warning", "error"]


class Version(msgspec.Struct, frozen=True, omit_defaults=True):
    """An earlier generation: its jobs, parameters and code."""

    generation: int
    params: dict[str, Any]
    of: int = 0  # see StageDesired
    jobs: list[Link] = []  # none, and no copy: it was stored by a version of mqworker that kept parameters only
    copy: CodeCopy | None = None


class StageDesired(msgspec.Struct, frozen=True):
    """The desired state of one stage. `configured`: of each value changed live, the configured value at that time."""

    running: bool = True  # the tree exists
    listening: bool = True
    working: bool = True
    consumers: int = 1
    soft_limit: float = 0.0
    hard_limit: float = 0.0
    jobs: list[Link] = []
    params: dict[str, Any] = {}
    generation: int = 1  # of jobs, params and code together
    code: int = 1  # the generation with which jobs or code came: Consumers of an older one are replaced
    copy: CodeCopy | None = None  # of the code; None: it is whatever the folder has
    of: int = 0  # the generation that a rollback brought back, or of which it brought back the parameters; 0: none
    history: tuple[Version, ...] = ()  # earlier generations that differ from the next, the newest last
    folder: str = ""  # the digest of the code in the folder, as of the last start or reload
    configured: dict[str, Any] = {}  # for each value changed live: the configured value (of the code: `folder`) then

    @property
    def version(self) -> Version:
        """Return the present generation."""
        return Version(self.generation, self.params, self.of, self.jobs, self.copy)


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


class SetJobs(_Change, frozen=True):
    """Another chain of jobs, already checked."""

    jobs: list[Link]


class GoBack(_Change, frozen=True):
    """Jobs, parameters and code of an earlier generation, already checked."""

    version: Version


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


Change = (
    SetListening
    | SetWorking
    | SetConsumers
    | SetRunning
    | Reload
    | GoBack
    | SetJobs
    | SetParams
    | SetLimits
    | SetLogLevel
)


def begin(
    old: Document | None, config: Config, copies: Mapping[str, CodeCopy | None] = MappingProxyType({})
) -> tuple[Document, list[str]]:
    """Return the initial document, made from the stored one and the configuration, and what to report about it.

    `copies`: by stage, the code that the folder has now; without it, the stored code stays.
    """
    old = old or Document(revision=0)
    notes: list[str] = []
    stages = {}
    for name, stage in config.stages.items():
        begun = _begin_stage(old.stages.get(name), name, stage, notes)
        stages[name] = _begin_code(begun, old.stages.get(name), name, copies[name], notes) if name in copies else begun
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
        "jobs": list(stage.jobs),
        "params": stage.params,
    }


def _begin_stage(old: StageDesired | None, name: str, stage: StageConfig, notes: list[str]) -> StageDesired:
    configured = _configured(stage)
    now = configured | {"jobs": links(stage.jobs)}
    if old is None:
        return StageDesired(**now)
    live = {}
    for key in [key for key in now if key in old.configured]:
        if old.configured[key] == configured[key]:
            live[key] = getattr(old, key)
        else:
            notes.append(
                f"stage {name}: {key} in the configuration has changed and replaces the value that was set live"
            )
    generation = old.generation + 1  # the code may have changed while nothing ran
    kept = {key: old.configured[key] for key in (*live, "code") if key in old.configured}
    new = msgspec.structs.replace(old, generation=generation, code=generation, configured=kept, **now | live)
    changed = (new.params, new.jobs) != (old.params, old.jobs or new.jobs)
    return msgspec.structs.replace(new, history=_with_present(old), of=0) if changed else new


def _begin_code(
    stage: StageDesired, old: StageDesired | None, name: str, found: CodeCopy | None, notes: list[str]
) -> StageDesired:
    """Take the code in the folder, unless another one was chosen since the folder last changed."""
    stage = msgspec.structs.replace(stage, folder=_digest(found))
    if "code" in stage.configured:
        if stage.configured["code"] == stage.folder:
            return stage
        notes.append(f"stage {name}: the code in the folder has changed and replaces that of generation {stage.of}")
        kept = {key: value for key, value in stage.configured.items() if key != "code"}
        stage = msgspec.structs.replace(stage, configured=kept)
    if old is not None and _digest(found) != _digest(old.copy) and stage.history == old.history:
        stage = msgspec.structs.replace(stage, history=_with_present(old), of=0)
    return msgspec.structs.replace(stage, copy=found)


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


def _change_stage(stage: StageDesired, asked: Change, config: StageConfig) -> StageDesired:
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
        case _:
            return _next_generation(stage, asked, config)


def _next_generation(stage: StageDesired, asked: Change, config: StageConfig) -> StageDesired:
    match asked:
        case Reload():
            return _reloaded(stage, asked.copy)
        case GoBack():
            return _gone_back(stage, asked.version, config)
        case SetJobs():
            return _with_jobs(stage, asked.jobs, config)
        case SetParams():
            return _with_params(stage, asked, config)
        case _:
            raise TypeError(type(asked))


def copies(document: Document) -> list[CodeCopy]:
    """Return the copies of code that the stages use, or that they may go back to."""
    versions = (version for stage in document.stages.values() for version in (stage.version, *stage.history))
    return [version.copy for version in versions if version.copy is not None]


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


def earlier(stage: StageDesired, generation: int | None) -> Version | None:
    """Return an earlier generation by its number, or the newest that is older than the one in use and differs from it.

    None if there is none of which jobs and code are known.
    """
    origin, now = stage.of or stage.generation, stage.version
    for version in reversed(stage.history):
        wanted = (
            version.generation < origin and _differ(version, now)
            if generation is None
            else (version.generation == generation)
        )
        if wanted and version.jobs and version.copy is not None:
            return version
    return None


def _gone_back(stage: StageDesired, version: Version, config: StageConfig) -> StageDesired:
    if not _differ(version, stage.version):
        return stage
    number = stage.generation + 1
    same_build = (enabled(version.jobs), _digest(version.copy)) == (enabled(stage.jobs), _digest(stage.copy))
    configured = _configured(config)
    live = {"jobs": configured["jobs"]} if version.jobs != links(config.jobs) else {}
    if version.params != config.params:
        live["params"] = config.params
    if _digest(version.copy) != stage.folder:
        live["code"] = stage.folder
    kept = {key: value for key, value in stage.configured.items() if key not in ("jobs", "params", "code")}
    return msgspec.structs.replace(
        stage,
        jobs=version.jobs,
        params=version.params,
        copy=version.copy,
        generation=number,
        code=stage.code if same_build else number,
        of=version.of or version.generation,
        history=_with_present(stage),
        configured=kept | live,
    )


def _with_params(stage: StageDesired, asked: SetParams, config: StageConfig) -> StageDesired:
    if asked.params == stage.params:
        return stage
    new = _live(stage, config, params=asked.params)
    number = stage.generation + 1
    return msgspec.structs.replace(new, generation=number, of=asked.of, history=_with_present(stage))


def _with_jobs(stage: StageDesired, jobs: list[Link], config: StageConfig) -> StageDesired:
    if jobs == stage.jobs:
        return stage
    new = _live(stage, config, jobs=jobs)
    number = stage.generation + 1
    code = stage.code if enabled(jobs) == enabled(stage.jobs) else number
    return msgspec.structs.replace(new, generation=number, code=code, of=0, history=_with_present(stage))


def _reloaded(stage: StageDesired, copy: CodeCopy | None) -> StageDesired:
    number = stage.generation + 1
    new = msgspec.structs.replace(
        stage,
        generation=number,
        code=number,
        copy=copy,
        folder=_digest(copy),
        configured={key: value for key, value in stage.configured.items() if key != "code"},
    )
    if _digest(copy) == _digest(stage.copy):
        return new
    return msgspec.structs.replace(new, history=_with_present(stage), of=0)


def _differ(one: Version, other: Version) -> bool:
    return (one.jobs, one.params, _digest(one.copy)) != (other.jobs, other.params, _digest(other.copy))


def _digest(copy: CodeCopy | None) -> str:
    return "" if copy is None else copy.digest


def _with_present(stage: StageDesired) -> tuple[Version, ...]:
    return (*stage.history, stage.version)[-HISTORY:]


def _live(stage: StageDesired, config: StageConfig, **values: Any) -> StageDesired:
    if all(getattr(stage, key) == value for key, value in values.items()):
        return stage
    configured = stage.configured | {key: _configured(config)[key] for key in values}
    return msgspec.structs.replace(stage, configured=configured, **values)
