"""What a stage or a source computes with: its jobs, the copy of the user's code, its parameters. Frozen records.

They are parts of what the Service sends to Producers, sources, shared objects and code checks, and Producers to
Consumers; the desired state has them too.
"""

from pathlib import Path

import msgspec

CODE = "code"  # the folder of the copies of code, in the state folder


class CodeCopy(msgspec.Struct, frozen=True):
    """A copy of a user's code in the state folder, from which it is imported as if from `folder`."""

    digest: str
    folder: str

    def root(self, now: str) -> Path:
        """Return the folder as it was, or, if that is gone, the one that the configuration is in now."""
        folder = Path(self.folder)
        return folder if folder.is_dir() else Path(now)

    def path(self, state_dir: str | Path) -> Path:
        """Return where it is."""
        return Path(state_dir) / CODE / self.digest


class SharedUse(msgspec.Struct, frozen=True):
    """A shared object that a stage uses."""

    name: str
    job: str  # "module:Class"


class Generation(msgspec.Struct, frozen=True):
    """Jobs, code and parameters of a stage together."""

    number: int
    code: int  # the generation with which jobs or code came: its Consumers can be those of this one
    jobs: list[str]
    copy: CodeCopy | None  # None: whatever is in the folder
    params: bytes  # JSON object
    shared: tuple[SharedUse, ...] = ()
