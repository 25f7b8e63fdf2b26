"""The desired state of a source: whether it runs, and with which code. Plain data, part of the document."""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from mqworker.config.model import SourceConfig
from mqworker.ipc.generation import CodeCopy


class SourceCode(msgspec.Struct, frozen=True):
    """What a source runs: it was checked as a whole."""

    job: str
    params: dict[str, Any]
    copy: CodeCopy | None  # None: whatever is in the folder

    def is_there(self, state_dir: Path) -> bool:
        """Return whether its copy is kept."""
        return self.copy is not None and self.copy.path(state_dir).is_dir()


class SourceDesired(msgspec.Struct, frozen=True):
    """The desired state of one source."""

    code: SourceCode
    running: bool = True
    refused: str = ""  # why the code in the folder, with the configured parameters, is not what it runs


class FoundSource(NamedTuple):
    """What the check of a source's code has found."""

    copy: CodeCopy | None
    refused: str = ""


def begin(old: SourceDesired | None, config: SourceConfig, found: FoundSource | None) -> SourceDesired:
    """Return the state at a start: what was stopped stays so; what is refused, or not known, leaves the old code."""
    running = old is None or old.running
    if old is not None and (found is None or found.refused):
        return SourceDesired(old.code, running, "" if found is None else found.refused)
    copy = None if found is None else found.copy
    return SourceDesired(SourceCode(config.job, dict(config.params), copy), running)


def source_kind(config: SourceConfig) -> str:
    """Return the kind of a source, as a CheckRequest names it."""
    return "schedule" if config.scheduled else "generator"
