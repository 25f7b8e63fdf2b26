"""Where a running service listens, and what a call to it fails with.

Pure. All verbs of the command line know this; the client itself (`client`) is imported by those that call a service,
because it comes with Python's HTTP client, which takes a quarter of the time of a verb that does nothing.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mqworker.exits import Exit


class CallError(Exception):
    """A request failed; `code` is the exit code, `status` the HTTP status if there was one."""

    retry_after = 1.0  # seconds after which the service says that the request may be made again

    def __init__(self, code: Exit, message: str, status: int = 0, problem: Mapping[str, Any] | None = None) -> None:
        self.code = code
        self.status = status
        self.problem = dict(problem or {})
        super().__init__(message)

    @property
    def not_begun(self) -> bool:
        """Return whether the service has refused the request for now, before it began anything."""
        return self.problem.get("kind") == "full"


class Address(NamedTuple):
    """Where a service listens; `socket` is the path of a unix socket, or empty."""

    host: str = "127.0.0.1"
    port: int = 5002
    socket: str = ""
    token: str = ""

    def __str__(self) -> str:
        """Return it as a user would write it, without the token."""
        return self.socket or f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse_url(url: str, token: str = "") -> Address:
    """Parse `http://host:port`; raises ValueError with a sentence."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http":
        raise ValueError(f"{parts.scheme}:// is not supported; give http://host:port")
    if not parts.hostname or parts.path.strip("/") or parts.query or parts.username is not None:
        raise ValueError("give only http://host:port")
    return Address(parts.hostname, parts.port or 5002, "", token)
