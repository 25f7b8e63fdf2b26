"""The configuration file: its values, and the line of each.

Reads one file. Raises `ConfigError` at once for a file that is missing, unreadable or not TOML, since nothing else
could be checked.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mqworker.config.errors import ConfigError, ConfigProblem, Key
from mqworker.config.lines import key_lines
from mqworker.config.sources import CONFIG_FILE

FILE_NAME = "mqworker.toml"
_PLACE = re.compile(r"(?P<what>.*) \(at (line (?P<line>\d+), column (?P<column>\d+)|end of document)\)\Z", re.DOTALL)


class ConfigFile(msgspec.Struct, frozen=True):
    """What the file holds, and on which lines; empty if there is no file."""

    name: str  # as the user wrote it
    path: Path | None
    tree: dict[str, Any] = {}
    lines: dict[Key, int] = {}

    def mode(self) -> int:
        """Return the file's permission bits; 0 without a file."""
        return self.path.stat().st_mode & 0o777 if self.path else 0


def read(path: Path | None, environ: Mapping[str, str]) -> ConfigFile:
    """Read `path`, else the file that MQWORKER_CONFIG names, else mqworker.toml here if there is one."""
    requested = str(path) if path is not None else environ.get(CONFIG_FILE, "")
    name = requested or FILE_NAME
    where, text = name, ""
    try:
        text = Path(name).read_bytes().decode()
        return ConfigFile(name, Path(name).absolute(), tomllib.loads(text), key_lines(text))
    except FileNotFoundError:
        if not requested:
            return ConfigFile(name, None)
        message, fix = "no such file", "`mqworker init` creates an example"
    except tomllib.TOMLDecodeError as error:
        what, line, column = _place(str(error), text)
        where, message, fix = f"{name}:{line}:{column}", f"is not TOML: {what}", ""
    except UnicodeDecodeError as error:
        message, fix = f"is not UTF-8 at byte {error.start}", "save it as UTF-8"
    except RecursionError:
        message, fix = "is not TOML: nested too deeply", ""
    except (OSError, ValueError) as error:
        message, fix = f"cannot be read ({getattr(error, 'strerror', None) or error})", ""
    raise ConfigError([ConfigProblem(where, "", message, fix)])


def _place(error: str, text: str) -> tuple[str, int, int]:
    """Split the parser's message into (what, line, column)."""
    found = _PLACE.match(error)
    if found and found["line"]:
        return found["what"], int(found["line"]), int(found["column"])
    last = text.rpartition("\n")[2]
    return found["what"] if found else error, text.count("\n") + 1, len(last) + 1
