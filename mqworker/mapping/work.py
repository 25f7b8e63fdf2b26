"""What a run of `mqworker map` computes: a stage of the configuration, or a job with the default settings of a stage.

Pure. The settings of a stage that concern brokers have no meaning here: input, output, order, codec. A line is JSON or
text.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from mqworker.config.load import Loaded
from mqworker.config.model import AUTO, InputConfig, OutputConfig, StageConfig
from mqworker.config.processors import usable
from mqworker.exits import Exit

LINES, RESULTS = "lines", "results"  # the names of the queue and the exchange that files stand in for
PREFETCH = 1_000  # lines taken ahead, which costs nothing with a file

_NO_BROKERS: dict[str, Any] = {
    "input": InputConfig(queue=LINES),
    "output": OutputConfig(exchange=RESULTS),
    "ordered_by": None,
    "on_failure": None,
    "pickle_key": None,
    "queue_type": "classic",
}


class MapError(Exception):
    """A run cannot begin or go on. Has one sentence, perhaps followed by a traceback, and the exit code."""

    def __init__(self, code: Exit, message: str) -> None:
        self.code = code
        super().__init__(message)


class Work(msgspec.Struct, frozen=True):
    """What is computed; to resume a run, it must be the same."""

    jobs: tuple[str, ...]
    params: dict[str, Any]
    text: bool


class MapStage(msgspec.Struct, frozen=True):
    """The stage that does the work."""

    name: str
    config: StageConfig
    root: Path  # the folder of the code
    work: Work
    shared: dict[str, str] = {}  # the classes of the named shared objects; they cannot be used here
    consumers: int = 1


def of_job(job: str, folder: Path) -> MapStage:
    """Return a stage with this job (`module:name`), whose code is in the folder; raises MapError."""
    try:
        config = msgspec.convert({"input": {"queue": LINES}, "jobs": [job]}, StageConfig)
    except msgspec.ValidationError:
        raise MapError(Exit.USAGE, f"{job} is not a job: write `module:name`, or the name of a stage") from None
    return MapStage("map", config, folder, Work(config.specs, {}, text=False))


def of_stage(name: str, loaded: Loaded) -> MapStage:
    """Return a stage of the configuration; raises MapError."""
    config = loaded.all_stages.get(name)
    if config is None:
        raise MapError(Exit.USAGE, f"{loaded.no_stage(name)}; a job is written `module:name`")
    work = Work(config.specs, dict(config.params), text=False)
    return MapStage(name, config, loaded.root, work, loaded.config.shared_classes)


def adapted(stage: MapStage, params: Mapping[str, Any], consumers: int | None, *, text: bool) -> MapStage:
    """Return the stage adapted to lines instead of a broker's messages, with these parameters beside its own."""
    count = stage.config.consumers if consumers is None else consumers
    codec = "text" if text else "json"
    number = max(1, usable(cpus=stage.config.cpus) if count == AUTO else count)
    own = {"codec": codec, "decode": codec, "consumers": number, "prefetch": stage.config.prefetch or PREFETCH}
    config = replace(stage.config, **_NO_BROKERS, **own)
    plain = msgspec.json.decode(msgspec.json.encode(stage.work.params | dict(params)))  # as stored
    work = replace(stage.work, params=plain, text=text)
    return replace(stage, config=config, work=work, consumers=number)
