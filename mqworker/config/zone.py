"""Time zones, by name or the machine's own, each with its rules for summer time.

Runs wherever a schedule is used: in the rules of the configuration, in a source's process, in `mqworker check`.
Reads the machine's data on time zones, `TZ` and `/etc/localtime`. Raises ValueError with one sentence.

`datetime.astimezone()` is not a substitute: it gives a zone with a fixed offset, which has no daylight saving.
"""

import os
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

LOCALTIME = Path("/etc/localtime")


def zone(name: str) -> ZoneInfo:
    """Return the time zone with this name; "": that of the machine."""
    return named(name) if name else _of_the_machine()


def named(name: str) -> ZoneInfo:
    """Return the time zone with this name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"{name!r} is not a time zone that this machine knows (names are like Europe/Berlin; the package tzdata has"
            " them all)"
        ) from None


def _of_the_machine() -> ZoneInfo:
    name = os.environ.get("TZ", "").removeprefix(":")
    path = Path(name) if name.startswith("/") else LOCALTIME
    if name and path is LOCALTIME:
        try:
            return named(name)
        except ValueError:
            what = f"the time zone of this machine, TZ={name}, has no name; set timezone of the source"
            raise ValueError(what) from None
    try:
        with path.open("rb") as file:
            return ZoneInfo.from_file(file, key=_key(path))
    except FileNotFoundError:
        return named("UTC")  # like the C library
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a time zone ({error}); set timezone of the source") from None


def _key(path: Path) -> str:
    """Return the name of a file of the machine's data, for display."""
    _, found, name = str(path.resolve()).partition("/zoneinfo/")
    return name.removeprefix("posix/").removeprefix("right/") if found else str(path)
