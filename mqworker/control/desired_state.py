"""The desired state of a service: one document, changed by small named changes.

Pure; used by the Service's main thread, which keeps the document in a file (store.py). A live change is kept until the
*configured* value of the same thing changes; then the configuration file wins (decisions 28).

Longer than most modules, because every change and what it makes of the document stand together.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from mqworker.config.model import Config, StageConfig
from mqworker.control import generations, source_desired, switch
from mqworker.control.chain import ChainLink, links
from mqworker.control.generations import FoundCode
from mqworker.control.source_desired import FoundSource, SourceCode, SourceDesired
from mqworker.control.stage_desired import (
    StageDesired,
    UndoneKind,
    Version,
    configured_values,
    same,
    set_live,
    value_of,
    with_values,
)
from mqworker.control.switch import Previous
from mqworker.ipc.generation import CodeCopy, SharedUse

GONE = "was not committed before the service ended"

LogLevel = Literal["debug", "info", "warning", "error"]


class Document(msgspec.Struct, frozen=True):
    """The whole desired state."""

    revision: int = 1
    stages: dict[str, StageDesired] = {}
    log_level: LogLevel = "info"
    configured_log_level: str = ""  # set while log_level is live
    elsewhere: dict[str, StageDesired] = {}  # kept for stages of the configuration that do not run this time
    sources: dict[str, SourceDesired] = {}

    @property
    def known(self) -> dict[str, StageDesired]:
        """All stages, also those that do not run this time."""
        return self.elsewhere | self.stages


class _Change(msgspec.Struct, frozen=True, tag=True):
    stage: str


class SetListening(_Change, frozen=True):
    """Switch taking new messages on or off."""

    enabled: bool


class SetWorking(_Change, frozen=True):
    """Switch computing on or off; the number of Consumers is kept."""

    enabled: bool


class SetConsumers(_Change, frozen=True):
    """How many Consumers; "auto": a share of `service.processes`."""

    count: int | Literal["auto"]


class SetRunning(_Change, frozen=True):
    """Build the stage's tree or tear it down."""

    enabled: bool


class Reload(_Change, frozen=True):
    """Replace all Consumers with new ones, which import this code, already checked with these parameters."""

    copy: CodeCopy | None
    params: dict[str, Any]
    shared: tuple[SharedUse, ...] = ()


class SetJobs(_Change, frozen=True):
    """Another chain of jobs, and the parameters that go with it, already checked."""

    jobs: list[ChainLink]
    params: dict[str, Any]
    shared: tuple[SharedUse, ...] = ()


class GoBack(_Change, frozen=True):
    """Jobs, parameters and code of an earlier generation, already checked."""

    version: Version


class SetParams(_Change, frozen=True):
    """New parameters, already validated; or, with `of`, those of an earlier generation."""

    params: dict[str, Any]
    of: int = 0
    candidates: dict[str, Any] | None = None  # those of the stage's candidate; None: it has none, or keeps its own


class Commit(_Change, frozen=True):
    """Put the candidate with this code in the place of the generation in use: its Consumers are set up."""

    code: int


class Undo(_Change, frozen=True):
    """Give up the candidate with this code."""

    code: int
    reason: str
    kind: UndoneKind = "failed"


class Revert(_Change, frozen=True):
    """Go back from the generation with this code to the one that it replaced, whose Consumers are still there."""

    code: int
    previous: Previous
    reason: str


class SetLimits(_Change, frozen=True):
    """Time limits of one message, seconds; 0: none."""

    soft: float
    hard: float


class SetSource(msgspec.Struct, frozen=True, tag=True):
    """Whether a source runs; with `code`, which was checked, also what."""

    source: str
    running: bool
    code: SourceCode | None = None
    refused: str = ""  # why the code in the folder is not taken


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
    | Commit
    | Undo
    | Revert
    | SetLimits
    | SetLogLevel
    | SetSource
)


def begin(
    old: Document | None,
    config: Config,
    found: Mapping[str, FoundCode] = MappingProxyType({}),
    now: float = 0.0,
    elsewhere: Collection[str] = (),
    sources: Mapping[str, FoundSource] = MappingProxyType({}),
) -> tuple[Document, list[str]]:
    """Return the initial document, made from the stored one and the configuration, and what to report about it.

    `found`: what is known of each stage's code; without it, the stored code stays. `now`: wall clock. `elsewhere`:
    stages that do not run this time; what is stored of them stays as it is. `sources`: what is known of their code.
    """
    old = old or Document(revision=0)
    notes: list[str] = []
    stages = {}
    for name, config_of_stage in config.stages.items():
        was = old.known.get(name)
        if was is not None and was.candidate is not None:
            notes.append(f"stage {name}: generation {was.candidate.version.generation} {GONE}")
            was = switch.without_candidate(was, "lost", f"it {GONE}", now)
        stage = _begin_stage(was, name, config_of_stage, notes)
        if name in found:
            stage, note = generations.begin(stage, was, config_of_stage, found[name])
            notes += [f"stage {name}: {note}"] if note else []
        stages[name] = stage
    level, configured = config.service.log_level, ""
    if old.configured_log_level == config.service.log_level:
        level, configured = old.log_level, old.configured_log_level
    elif old.configured_log_level:
        notes.append("log_level in the configuration has changed and replaces the value that was set live")
    kept = {name: stage for name, stage in old.known.items() if name in elsewhere}
    begun = old.sources if elsewhere else {}
    for name, source in config.sources.items():
        begun = begun | {name: source_desired.begin(old.sources.get(name), source, sources.get(name))}
    return Document(old.revision + 1, stages, level, configured, kept, begun), notes


def _begin_stage(old: StageDesired | None, name: str, stage: StageConfig, notes: list[str]) -> StageDesired:
    configured = configured_values(stage)
    now = configured | {"jobs": links(stage.jobs)}
    if old is None:
        return with_values(StageDesired(), **now)
    live = {}
    for key in [key for key in now if key in old.configured]:
        if old.configured[key] == configured[key]:
            live[key] = value_of(old, key)
        else:
            notes.append(
                f"stage {name}: {key} in the configuration has changed and replaces the value that was set live"
            )
    generation = old.next_number  # the code may have changed while nothing ran
    kept = {key: old.configured[key] for key in (*live, "code") if key in old.configured}
    new = msgspec.structs.replace(old, generation=generation, code=generation, configured=kept, refused="")
    new = with_values(new, **now | live)
    if same(new.params, old.params) and new.jobs == (old.jobs or new.jobs):
        return new
    return msgspec.structs.replace(new, history=old.kept, of=0, params_of=0)


def change(document: Document, asked: Change, config: Config, now: float = 0.0) -> Document:
    """Apply one change at this time (wall clock); returns the same document if the change has no effect."""
    if isinstance(asked, SetLogLevel):
        if asked.level == document.log_level:
            return document
        new = msgspec.structs.replace(document, log_level=asked.level, configured_log_level=config.service.log_level)
    elif isinstance(asked, SetSource):
        was = document.sources[asked.source]
        code = was.code if asked.code is None else asked.code
        refused = asked.refused or (was.refused if asked.code is None else "")
        changed_source = SourceDesired(code, asked.running, refused)
        new = msgspec.structs.replace(document, sources=document.sources | {asked.source: changed_source})
    else:
        stage = document.stages[asked.stage]
        changed = _change_stage(stage, asked, config.stages[asked.stage], now)
        new = msgspec.structs.replace(document, stages=document.stages | {asked.stage: changed})
    return document if new == document else msgspec.structs.replace(new, revision=document.revision + 1)


def _change_stage(stage: StageDesired, asked: Change, config: StageConfig, now: float) -> StageDesired:
    match asked:
        case SetListening():
            return msgspec.structs.replace(stage, listening=asked.enabled)
        case SetWorking():
            return msgspec.structs.replace(stage, working=asked.enabled)
        case SetRunning():
            why = "the stage was stopped"
            stays = stage if asked.enabled else switch.without_candidate(stage, "taken back", why, now)
            return msgspec.structs.replace(stays, running=asked.enabled)
        case SetConsumers():
            return set_live(stage, config, consumers=asked.count)
        case SetLimits():
            return set_live(stage, config, soft_limit=asked.soft, hard_limit=asked.hard)
        case _:
            return _change_generation(stage, asked, config, now)


def _change_generation(stage: StageDesired, asked: Change, config: StageConfig, now: float) -> StageDesired:
    match asked:
        case SetParams():
            return switch.carried(stage, asked.params, asked.of, asked.candidates, config)
        case Commit() | Undo() if stage.candidate is None or stage.candidate.code != asked.code:
            return stage  # another change has taken its place
        case Commit():
            return switch.committed(stage)
        case Undo():
            return switch.without_candidate(stage, asked.kind, asked.reason, now)
        case Revert():
            last = stage.code == asked.code
            return switch.reverted(stage, asked.previous, asked.reason, now, config) if last else stage
        case _:
            ahead = switch.committed(stage)
            return switch.stored(stage, ahead, _next_generation(ahead, asked, config), now)


def _next_generation(stage: StageDesired, asked: Change, config: StageConfig) -> StageDesired:
    match asked:
        case Reload():
            return generations.reloaded(stage, asked.copy, asked.params, config, asked.shared)
        case GoBack():
            return generations.gone_back(stage, asked.version, config)
        case SetJobs():
            return generations.with_jobs(stage, asked.jobs, asked.params, config, asked.shared)
        case _:
            raise TypeError(type(asked))


def copies(document: Document) -> list[CodeCopy]:
    """Return the copies of code that stages and sources use, or that stages may go back to."""
    stages = document.known.values()
    versions = [version for stage in stages for version in (stage.version, *stage.history)]
    versions += [stage.candidate.version for stage in stages if stage.candidate is not None]
    found = [version.copy for version in versions] + [source.code.copy for source in document.sources.values()]
    return [copy for copy in found if copy is not None]


def rollback(document: Document, name: str) -> SetParams | None:
    """Return the change that brings back a stage's earlier parameters, or None when there are none."""
    version = generations.earlier_params(document.stages[name])
    return (
        None
        if version is None
        else SetParams(name, version.params, version.params_of or version.of or version.generation)
    )
