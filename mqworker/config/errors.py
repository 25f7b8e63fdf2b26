"""What a user reads when the configuration is wrong: all problems at once, one line each, never a secret.

Pure; used by all of `mqworker.config`. The only place where a configured value is turned into text.
"""

import difflib
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from mqworker.config.urls import redact_url

Key = tuple[str, ...]  # ("stages", "energy", "consumers")

TOKEN: Key = ("control", "token")
READ_TOKEN: Key = ("control", "read_token")
URL: Key = ("broker", "url")
PICKLE_KEY = "pickle_key"  # the key of this name, in each stage
FROM_FILE = "_FILE "  # in the origin of a value read from the file that an environment variable names
MASK = "***"

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")
_LONGEST = 100  # characters of a value in a message


def is_secret(key: Key) -> bool:
    """Return whether the value of a key must never be shown."""
    return key in (TOKEN, READ_TOKEN, URL) or (key[:1] == ("stages",) and key[2:] == (PICKLE_KEY,))


class ConfigProblem(msgspec.Struct, frozen=True):
    """One thing that is wrong: its place, its key, what is wrong, and how to fix it."""

    where: str  # "mqworker.toml:12", "environment MQWORKER_A__B", "flag"
    key: str  # dotted; empty when it concerns the whole file
    message: str
    fix: str = ""

    def __str__(self) -> str:
        """Return one line."""
        return printable(": ".join(filter(None, (self.where, self.key, self.message)))) + (
            printable(f"; {self.fix}") if self.fix else ""
        )


class ConfigError(Exception):
    """The configuration cannot be used; `problems` lists everything that is wrong with it."""

    def __init__(self, problems: list[ConfigProblem]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        """Return one line for each problem."""
        return "\n".join(map(str, self.problems))


def printable(text: str) -> str:
    """Escape whatever could start a new line or control a terminal, or cannot be encoded."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def dotted(key: Key) -> str:
    """Format a key as TOML does."""
    return ".".join(part if _BARE.match(part) else quoted(part) for part in key)


def quoted(text: str) -> str:
    """Format a text as TOML does."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(escaped)}"'


def render(value: Any) -> str:
    """Format any value much as TOML does; passwords inside URLs are masked."""
    if isinstance(value, str):
        return quoted(redact_url(value) if "://" in value else value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(render, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{dotted((name,))} = {render(item)}' for name, item in value.items())}}}"
    if isinstance(value, msgspec.Struct):
        return render({name: item for name, item in msgspec.structs.asdict(value).items() if item is not None})
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)


def display(key: Key, value: Any, origin: str) -> str:
    """Format a key's value for printing: a secret is masked, whatever its type."""
    if key == URL:
        if isinstance(value, list | tuple):
            return f"[{', '.join(display(URL, item, origin) for item in value)}]"
        return quoted(redact_url(value)) if isinstance(value, str) else MASK
    if FROM_FILE in origin or (is_secret(key) and value not in ("", None)):
        return MASK
    return render(value)


def excerpt(key: Key, value: Any, origin: str) -> str:
    """Format a bad value for an error message: shortened, and without the content of a table."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return "a list of tables or lists"
    shown = display(key, value, origin)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that was probably meant by `word`."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return close[0] if close else None
