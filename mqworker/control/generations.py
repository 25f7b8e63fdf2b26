"""What each change makes of a stage's jobs, parameters and code, and which generation a rollback brings back.

Pure; part of the desired state. Numbers only grow: a rollback makes a new generation, with the number that it is `of`.
"""

from typing import NamedTuple

import msgspec

from mqworker.config.model import StageConfig
from mqworker.control.chain import ChainLink, enabled, links
from mqworker.control.stage_desired import (
    StageDesired,
    Version,
    configured_values,
    differ,
    digest_of,
    same,
    set_live,
    without_live,
)
from mqworker.ipc.generation import CodeCopy, SharedUse

GENERATION = ("jobs", "params", "code")  # what makes a generation, as keys of StageDesired.configured


class FoundCode(NamedTuple):
    """What a start has found out about a stage's code."""

    folder: CodeCopy | None  # the copy of what the folder has; None: there is none, or it is not known
    chosen: bool = True  # the copy that a rollback chose is there
    jobs: bool = True  # the code that will run has the jobs that were set live
    params: bool = True  # and accepts the parameters that were set live
    shared: tuple[SharedUse, ...] | None = None  # the shared objects that its jobs use; None: it is not known
    refused: str = ""  # why it is not used: the generation that was in use last works on, whose code is there


def begin(
    stage: StageDesired, old: StageDesired | None, config: StageConfig, found: FoundCode
) -> tuple[StageDesired, str]:
    """Return the stage with the code that it begins with, and what to report.

    That is the code in the folder, unless a rollback chose other code and the folder has not changed since. If it has,
    the jobs and parameters that came with the chosen code go with it. What cannot be used leaves the generation in use
    that was in use last; nothing is noted about what is configured, so that the next start tries it again.
    """
    if found.refused and old is not None:
        last = {
            key: getattr(old, key)
            for key in ("jobs", "params", "copy", "shared", "of", "params_of", "folder", "history")
        }
        live = {key: old.configured[key] for key in GENERATION if key in old.configured}
        configured = without_live(stage, *GENERATION) | live
        new = msgspec.structs.replace(stage, refused=found.refused, configured=configured, **last)
        return _using(new, found), new.degraded
    note, keys = "", ["code"]
    if "code" in stage.configured:
        changed = found.folder is not None and found.folder.digest != stage.configured["code"]
        if found.chosen and not changed:
            return _using(stage, found), ""
        note = "the code in the folder has changed" if changed else "the code that a rollback chose is gone"
        note += ": the code in the folder takes its place"
        if stage.of:
            keys += ["jobs", "params"]
            gone = f"{', '.join(enabled(stage.jobs))} with {msgspec.json.encode(stage.params).decode()}"
            note += f", with the configured jobs and parameters instead of {gone}"
    for kept, key, words in (
        (found.jobs, "jobs", "jobs that were set live are not in the code"),
        (found.params, "params", "the code does not accept the parameters that were set live"),
    ):
        if not kept and key in stage.configured and key not in keys:
            keys.append(key)
            note += f"{'; ' if note else ''}{words}: what is configured takes their place"
    configured = configured_values(config)
    values = {"jobs": links(config.jobs), "params": configured["params"]}
    back = {key: values[key] for key in keys if key in values and key in stage.configured}
    new = msgspec.structs.replace(stage, configured=without_live(stage, *keys), copy=found.folder, **back)
    new = _using(msgspec.structs.replace(new, folder=digest_of(found.folder)), found)
    if old is not None and old.jobs and differ(new.version, old.version):
        new = msgspec.structs.replace(new, history=old.kept, of=0, params_of=0)
    return new, note


def _using(stage: StageDesired, found: FoundCode) -> StageDesired:
    return stage if found.shared is None else msgspec.structs.replace(stage, shared=found.shared)


def reloaded(
    stage: StageDesired,
    copy: CodeCopy | None,
    params: dict[str, object],
    config: StageConfig,
    shared: tuple[SharedUse, ...] = (),
) -> StageDesired:
    """Return the stage with new Consumers, which run this code, and the parameters that go with it."""
    number = stage.next_number
    changed = not same(params, stage.params)
    new = msgspec.structs.replace(
        set_live(stage, config, params=params) if changed else stage,
        generation=number,
        code=number,
        copy=copy,
        shared=shared,
        folder=digest_of(copy),
        refused="",
    )
    new = msgspec.structs.replace(new, configured=without_live(new, "code"))
    if digest_of(copy) == digest_of(stage.copy) and not changed:
        return new
    return msgspec.structs.replace(new, history=stage.kept, of=0, params_of=0 if changed else stage.params_of)


def gone_back(stage: StageDesired, version: Version, config: StageConfig, code: int = 0) -> StageDesired:
    """Return the stage with the jobs, parameters and code of an earlier generation.

    `code`: the generation of which there are Consumers with those jobs and that code; 0: none that is known.
    """
    if not (code or differ(version, stage.version)):
        return stage
    number = stage.next_number
    if not code:
        alike = (enabled(version.jobs), version.copy) == (enabled(stage.jobs), stage.copy)
        code = stage.code if alike else number
    configured = configured_values(config)
    live = {"jobs": configured["jobs"]} if version.jobs != links(config.jobs) else {}
    if not same(version.params, config.params):
        live["params"] = config.params
    if digest_of(version.copy) != stage.folder:
        live["code"] = stage.folder
    return msgspec.structs.replace(
        stage,
        jobs=version.jobs,
        params=version.params,
        copy=version.copy,
        shared=version.shared,
        generation=number,
        code=code,
        of=version.of or version.generation,
        params_of=0,
        refused="",
        history=stage.kept if differ(version, stage.version) else stage.history,
        configured=without_live(stage, *GENERATION) | live,
    )


def with_jobs(
    stage: StageDesired,
    jobs: list[ChainLink],
    params: dict[str, object],
    config: StageConfig,
    shared: tuple[SharedUse, ...] = (),
) -> StageDesired:
    """Return the stage with another chain, and the parameters that go with it."""
    if jobs == stage.jobs and same(params, stage.params):
        return stage
    new = msgspec.structs.replace(set_live(stage, config, jobs=jobs), shared=shared)
    if not same(params, stage.params):
        new = set_live(new, config, params=params)
    number = stage.next_number
    code = stage.code if enabled(jobs) == enabled(stage.jobs) else number
    return msgspec.structs.replace(new, generation=number, code=code, of=0, params_of=0, history=stage.kept)


def with_params(stage: StageDesired, params: dict[str, object], of: int, config: StageConfig) -> StageDesired:
    """Return the stage with other parameters; `of`: the generation of which a rollback brought them back."""
    if same(params, stage.params):
        return stage
    configured = stage.configured | {"params": config.params}
    number = stage.next_number
    return msgspec.structs.replace(
        stage, params=params, configured=configured, generation=number, of=0, params_of=of, history=stage.kept
    )


def earlier(stage: StageDesired, generation: int | None) -> Version | None:
    """Return an earlier generation by its number, or the newest that is older than the one in use and differs from it.

    None if there is none of which jobs and code are known. A second rollback goes further back instead of alternating
    between two generations.
    """
    origin, now = stage.of or stage.generation, stage.version
    for version in reversed(stage.history):
        wanted = version.generation == generation
        if generation is None:
            wanted = version.generation < origin and differ(version, now)
        if wanted and version.jobs and version.copy is not None:
            return version
    return None


def earlier_params(stage: StageDesired) -> Version | None:
    """Return the newest generation with other parameters that is older than that of the parameters in use."""
    origin = stage.params_of or stage.of or stage.generation
    for version in reversed(stage.history):
        if version.generation < origin and not same(version.params, stage.params):
            return version
    return None
