"""What the Service asks a code check, and what that reports: frozen records.

    Service  --CheckRequest-->           Code check
    Service  <--CodeFound, CodeReport--  Code check

A code check answers one request, and ends.
"""

from typing import Any

import msgspec

from mqworker.ipc.generation import CodeCopy, SharedUse
from mqworker.ipc.records import TaggedRecord


class CheckRequest(TaggedRecord, frozen=True, tag="check"):
    """What a code check must check."""

    root: str  # the folder of the user's code
    jobs: tuple[str, ...]
    params: bytes  # JSON object
    state_dir: str = ""  # where copies of code are; "": look at the folder itself
    copy: CodeCopy | None = None  # the copy to look at; None: make one
    needed: tuple[str, ...] = ()  # digests of the copies to keep
    named: tuple[str, ...] = ()  # jobs that a caller has named, and that must follow the rules for that
    allowed: tuple[str, ...] = ()  # modules whose jobs a caller may name
    shared: dict[str, str] = msgspec.field(default_factory=dict)  # the classes of the shared objects that have a name
    source: str = ""  # "generator" or "schedule": the only job is a source, and of which kind; "": they are handlers
    concurrency: int = 1
    soft_limit: float = 0.0
    schema: bool = False  # what the parameters may be is wanted, whether these are accepted or not


class CodeFound(TaggedRecord, frozen=True, tag="found"):
    """What a code check is about to import; sent first, because the import may never end."""

    copy: CodeCopy | None  # None: the folder itself
    warning: str = ""  # why there is no copy


class CodeReport(TaggedRecord, frozen=True, tag="code"):
    """What a code check found: problems in the user's code or parameters; empty when all is well."""

    problems: list[str]
    fields: list[tuple[str, str]]  # (field, what is wrong) of the parameters
    defaults: dict[str, Any]  # the parameters with the code's defaults filled in
    died: bool = False  # the user's code ended or stopped the code check instead of raising
    copy: CodeCopy | None = None  # what was looked at; None: the folder itself
    warnings: tuple[str, ...] = ()
    shared: tuple[SharedUse, ...] = ()  # the shared objects that the jobs use
    edited: bool = False  # the folder has other code by now: its import may have made some
    schema: dict[str, Any] | None = None  # JSON Schema of the parameters, if that was wanted and there is one


CheckReport = CodeFound | CodeReport
