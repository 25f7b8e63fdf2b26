"""The desired state of one stage, its generations, and which of its values are live.

Pure; part of the desired state. Jobs, parameters and code together are a generation. A value that was changed live
holds until the *configured* value of the same thing changes; then the configuration file wins (decisions 28). For the
code, what the folder has is the configured value.
"""

from typing import Any, Literal

import msgspec

from mqworker.config.model import AUTO, StageConfig
from mqworker.control.chain import ChainLink
from mqworker.ipc.generation import CodeCopy, SharedUse

HISTORY = 20  # earlier generations kept for rollback
UNDONE = 20  # changes that were undone that are kept to be shown


class Version(msgspec.Struct, frozen=True, omit_defaults=True):
    """A generation: its jobs, parameters and code."""

    generation: int
    params: dict[str, Any]
    of: int = 0  # see StageDesired
    jobs: list[ChainLink] = []  # none, and no copy: it was stored by a version of mqworker that kept parameters only
    copy: CodeCopy | None = None
    params_of: int = 0
    shared: tuple[SharedUse, ...] = ()  # the shared objects that the jobs use


class Candidate(msgspec.Struct, frozen=True):
    """The next generation while its first Consumers are set up: its commit puts it in the place of the present one."""

    version: Version
    code: int  # as StageDesired.code
    folder: str  # as StageDesired.folder
    refused: str  # as StageDesired.refused
    live: dict[str, Any]  # which of jobs, params and code it makes live, as in StageDesired.configured


UndoneKind = Literal["failed", "lost", "taken back"]


class Undone(msgspec.Struct, frozen=True):
    """A change that was stored and did not last.

    It has failed, or was lost with the Producer that set it up, or an operator or a newer change has taken it back.
    """

    generation: int
    code: int
    reason: str
    time: float  # wall clock
    kind: UndoneKind


class StageDesired(msgspec.Struct, frozen=True):
    """The desired state of one stage."""

    running: bool = True  # the tree exists
    listening: bool = True
    working: bool = True
    consumers: int = 1  # while they are automatic, what is shown is the stage's present share (control/balance)
    auto: bool = False  # their number is a share of `service.processes`
    soft_limit: float = 0.0
    hard_limit: float = 0.0
    jobs: list[ChainLink] = []
    params: dict[str, Any] = {}
    generation: int = 1  # of jobs, params and code together
    code: int = 1  # the generation with which jobs or code came: Consumers of an older one are replaced
    copy: CodeCopy | None = None  # of the code; None: it is whatever the folder has
    of: int = 0  # the generation that a rollback brought back; 0: it is a new one
    params_of: int = 0  # the generation of which a rollback brought back the parameters alone; 0: they are new
    shared: tuple[SharedUse, ...] = ()  # the shared objects that the jobs use
    history: tuple[Version, ...] = ()  # earlier generations, the newest last; no two neighbours are equal
    folder: str = ""  # the digest of the code in the folder, as of the last start or reload
    configured: dict[str, Any] = {}  # for each value changed live: the configured value (of the code: `folder`) then
    refused: str = ""  # why a start did not take the code in the folder, or what is configured
    candidate: Candidate | None = None
    undone: tuple[Undone, ...] = ()  # the newest last

    @property
    def degraded(self) -> str:
        """Return that an earlier generation works, and why, in one sentence; "" if the latest one does."""
        if not self.refused:
            return ""
        return f"generation {self.generation} works on, because what is there now is refused: {self.refused}"

    @property
    def next_number(self) -> int:
        """Return the number of the next generation; none is used twice, so that results never seem to go back."""
        used = [self.generation, *(each.generation for each in self.undone)]
        if self.candidate is not None:
            used.append(self.candidate.version.generation)
        return max(used) + 1

    @property
    def version(self) -> Version:
        """Return the present generation."""
        return Version(self.generation, self.params, self.of, self.jobs, self.copy, self.params_of, self.shared)

    @property
    def kept(self) -> tuple[Version, ...]:
        """Return the history with the present generation, as it is kept when another one follows."""
        return (*self.history, self.version)[-HISTORY:]


def configured_values(stage: StageConfig) -> dict[str, Any]:
    """Return what the configuration says of each value that can be changed live."""
    return {
        "consumers": stage.consumers,
        "soft_limit": stage.time_limit.soft,
        "hard_limit": stage.time_limit.hard,
        "jobs": list(stage.specs),
        "params": stage.params,
    }


def value_of(stage: StageDesired, key: str) -> Any:
    """Return a value of a stage as it would be configured."""
    return AUTO if key == "consumers" and stage.auto else getattr(stage, key)


def with_values(stage: StageDesired, **values: Any) -> StageDesired:
    """Return a stage with these values, as they are configured."""
    if "consumers" in values:
        values["auto"] = values["consumers"] == AUTO
        values["consumers"] = stage.consumers if values["auto"] else values["consumers"]
    return msgspec.structs.replace(stage, **values)


def set_live(stage: StageDesired, config: StageConfig, **values: Any) -> StageDesired:
    """Set values, and remember what is configured for them now."""
    if all(value_of(stage, key) == value for key, value in values.items()):
        return stage
    configured = configured_values(config)
    live = stage.configured | {key: configured[key] for key in values}
    return msgspec.structs.replace(with_values(stage, **values), configured=live)


def without_live(stage: StageDesired, *keys: str) -> dict[str, Any]:
    """Return `configured` without these keys: their values are the configured ones again."""
    return {key: value for key, value in stage.configured.items() if key not in keys}


def digest_of(copy: CodeCopy | None) -> str:
    """Return the digest of a copy, "" for none."""
    return "" if copy is None else copy.digest


def described(version: Version) -> str:
    """Return what a generation is, for the log."""
    chain = ", ".join(link.job if link.enabled else f"({link.job})" for link in version.jobs)
    params = msgspec.json.encode(version.params).decode()
    code = version.copy.digest[:12] if version.copy else "as found"
    of = f", as {version.of} was" if version.of else ""
    return f"generation {version.generation}{of}: jobs {chain}; parameters {params}; code {code}"


def differ(one: Version, other: Version) -> bool:
    """Return whether two generations have other jobs, parameters or code; 1, 1.0 and true are different parameters."""
    if (one.jobs, digest_of(one.copy)) != (other.jobs, digest_of(other.copy)):
        return True
    return not same(one.params, other.params)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether parameters are the same to a job that receives them."""
    return one == other and msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")
