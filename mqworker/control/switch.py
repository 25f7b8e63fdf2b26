"""A change of jobs or code, from the moment when it is stored until it is committed or undone.

Pure; part of the desired state. Such a change needs other Consumers, so it is a *candidate* first. When they are set up
it is committed, and the commit is stored before any of them receives a message. What cannot be set up is undone: the
generation in use was never touched. If a Consumer dies before the new code has finished a message, the stage goes back
to the previous generation, under a new number.
"""

from typing import Any, NamedTuple

import msgspec

from mqworker.config.model import StageConfig
from mqworker.control.generations import GENERATION, gone_back, with_params
from mqworker.control.stage_desired import (
    UNDONE,
    Candidate,
    StageDesired,
    Undone,
    UndoneKind,
    Version,
    differ,
    same,
    without_live,
)


class Previous(NamedTuple):
    """The generation that a commit has replaced."""

    version: Version
    code: int


def stored(stage: StageDesired, ahead: StageDesired, new: StageDesired, now: float) -> StageDesired:
    """Return the stage with a change of its jobs or code.

    `ahead` is the stage as it will be with its candidate, if it has one, and `new` what the change makes of that. It is
    a candidate if it needs other Consumers and there are processes to set them up. An older candidate gives way.
    """
    candidate = stage.candidate
    if new is ahead:
        return stage
    if not stage.running or (candidate is None and new.code == stage.code):
        return new
    version, code = new.version, new.code
    if candidate is not None and not differ(version, candidate.version):
        version, code = candidate.version, candidate.code  # it is being prepared
    elif candidate is not None and code != candidate.code:
        stage = without_candidate(stage, "taken back", f"generation {new.generation} was asked for", now)
    live = {key: new.configured[key] for key in GENERATION if key in new.configured}
    return msgspec.structs.replace(stage, candidate=Candidate(version, code, new.folder, new.refused, live))


def carried(
    stage: StageDesired, params: dict[str, Any], of: int, candidates: dict[str, Any] | None, config: StageConfig
) -> StageDesired:
    """Return the stage with other parameters, at once, and its candidate with those (None: with the same as before).

    The candidate gets a number above that of the new parameters, and keeps its Consumers.
    """
    new = with_params(stage, params, of, config)
    candidate = stage.candidate
    if candidate is None or (new is stage and (candidates is None or same(candidates, candidate.version.params))):
        return new
    version, live = candidate.version, candidate.live
    if candidates is not None and not same(candidates, version.params):
        version = msgspec.structs.replace(version, params=candidates, params_of=0)
        live = live | {"params": config.params}
    version = msgspec.structs.replace(version, generation=new.next_number)
    return msgspec.structs.replace(new, candidate=msgspec.structs.replace(candidate, version=version, live=live))


def committed(stage: StageDesired) -> StageDesired:
    """Return the stage with its candidate in the place of the generation in use."""
    candidate = stage.candidate
    if candidate is None:
        return stage
    version = candidate.version
    return msgspec.structs.replace(
        stage,
        jobs=version.jobs,
        params=version.params,
        copy=version.copy,
        generation=version.generation,
        code=candidate.code,
        of=version.of,
        params_of=version.params_of,
        shared=version.shared,
        folder=candidate.folder,
        history=stage.kept if differ(version, stage.version) else stage.history,
        configured=without_live(stage, *GENERATION) | candidate.live,
        refused=candidate.refused,
        candidate=None,
    )


def without_candidate(stage: StageDesired, kind: UndoneKind, reason: str, now: float) -> StageDesired:
    """Return the stage without its candidate; code in the folder that has failed is not taken at a start either."""
    candidate = stage.candidate
    if candidate is None:
        return stage
    entry = Undone(candidate.version.generation, candidate.code, reason, now, kind)
    new = msgspec.structs.replace(stage, candidate=None, undone=(*stage.undone, entry)[-UNDONE:])
    if kind != "failed" or candidate.folder == stage.folder:
        return new
    configured = stage.configured | {"code": candidate.folder}
    return msgspec.structs.replace(new, folder=candidate.folder, configured=configured)


def reverted(stage: StageDesired, previous: Previous, reason: str, now: float, config: StageConfig) -> StageDesired:
    """Return the stage at the generation before the last commit, under a new number, with its former Consumers."""
    entry = Undone(stage.generation, stage.code, reason, now, "failed")
    new = gone_back(stage, previous.version, config, previous.code)
    return msgspec.structs.replace(new, undone=(*stage.undone, entry)[-UNDONE:])
