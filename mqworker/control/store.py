"""The file of the desired state: written to a neighbour file, synced, renamed.

Used by the Service's main thread. A file with other content is renamed, and the configured state is used; a file that
cannot be opened, read or renamed raises OSError.
"""

import contextlib
import os
from pathlib import Path

import msgspec

from mqworker.control.desired_state import Document


class Store:
    """The document's file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> tuple[Document | None, str]:
        """Return the stored document, and what to report if it cannot be used; raises OSError."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None, ""
        try:
            return msgspec.json.decode(data, type=Document), ""
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # text that is not UTF-8 is a ValueError
            aside = self.path.with_suffix(".damaged")
            self.path.replace(aside)
            return None, f"{self.path.name} could not be read ({error}); it is kept as {aside.name}"

    def save(self, document: Document) -> None:
        """Write it, and return once it is on the disk; raises OSError."""
        neighbour = self.path.with_suffix(".new")
        data = msgspec.json.format(msgspec.json.encode(document), indent=1)
        fd = os.open(neighbour, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with contextlib.closing(os.fdopen(fd, "wb")) as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
        except OSError:
            neighbour.unlink(missing_ok=True)
            raise
        neighbour.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
