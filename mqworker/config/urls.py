"""Broker URLs: which are valid, what they contain, and how to show one without its password.

The only place that parses a broker's URL. Pure. After `sqlite:`, three slashes start a relative path and four an
absolute one; %, ? and # in it are escaped.
"""

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

SQLITE = "sqlite:///"

_AUTHORITY = re.compile(r"(?P<scheme>[^:/@]*:?//+)(?P<rest>.*)", re.DOTALL)
_PLACE = re.compile(r"(\[[0-9A-Fa-f:.]*\]|[^:\[?#]*)(:\d*)?([/?#]|\Z)")
_FORM = "write amqp://user:password@host:5672/vhost"
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def redact_url(url: str) -> str:
    """Return a URL, valid or malformed, with its password replaced by `***`."""
    if url.startswith(SQLITE):
        return url
    found = _AUTHORITY.match(url)
    scheme, rest = (found["scheme"], found["rest"]) if found else ("", url)
    user_info, at, place = rest.rpartition("@")  # a password that contains an @ ends at the last one
    if at:
        user, colon, _password = user_info.partition(":")
        return f"{scheme}{user}{':***' if colon else ''}@{_without_query(place)}"
    if _PLACE.match(rest):
        return scheme + _without_query(rest)
    return f"{scheme}{rest.partition(':')[0]}:***"  # that "port" may be the password of someone who forgot the host


def _without_query(place: str) -> str:
    return re.sub(r"[?#].*", "?***", place, flags=re.DOTALL)


def fault(url: str) -> tuple[str, str] | None:
    """Return (what is wrong, how to fix it) without repeating the URL, or None."""
    scheme, colon, _ = url.partition(":")
    if re.search(r"[\x00-\x1f\x7f]", url) or (" " in url and not url.startswith(SQLITE)):
        return "contains spaces or control characters", "percent-encode them"
    match scheme if colon else "":
        case "sqlite":
            return _sqlite_fault(url)
        case "amqp" | "amqps":
            return _amqp_fault(url)
    return "has an unknown scheme", "use amqp://, amqps:// or sqlite:///"


def _sqlite_fault(url: str) -> tuple[str, str] | None:
    path = url.removeprefix(SQLITE)
    if not url.startswith(SQLITE) or not path.strip("/"):
        return "has no file name", "write sqlite:///relative/file.db or sqlite:////absolute/file.db"
    if path == ":memory:":
        return "is in memory, which several processes cannot share", "use a file"
    if _BAD_ESCAPE.search(path) or re.search(r"[?#]|%00", path):
        return "has a ?, # or % in its path", "write %3F, %23 or %25"
    return None


def _amqp_fault(url: str) -> tuple[str, str] | None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # its text may repeat the URL
        return "is malformed", f"{_FORM}; percent-encode everything but letters and digits in the password"
    names = (parts.username or "") + (parts.password or "") + parts.path
    tests = (
        (not host, "has no host", _FORM),
        (port == 0, "has port 0", "omit the port for the standard one"),
        (
            parts.query or parts.fragment,
            "has a part after ? or #",
            "options are keys of [broker]; in a password write %3F or %23",
        ),
        (_BAD_ESCAPE.search(url), "has a % that starts no escape", "write %25 for a percent sign"),
        ("@" in names, "has more than one @", "write %40 for one inside a name or password"),
        ("/" in parts.path[1:], "has a second / in the vhost", "write %2F for a slash in its name"),
    )
    return next(((message, fix) for found, message, fix in tests if found), None)


def embedded(path: Path) -> str:
    """Return the URL of an embedded broker in the file with the absolute path `path`."""
    return f"{SQLITE}{quote(str(path))}"


def absolute(url: str, root: Path) -> str:
    """Return a valid URL with a relative sqlite path made absolute under `root`."""
    path = url.removeprefix(SQLITE)
    if not url.startswith(SQLITE) or path.startswith("/"):
        return url
    return f"{embedded(root)}/{path}"


class AmqpAddress(NamedTuple):
    """The parts of an `amqp:` or `amqps:` URL, unescaped, with AMQP's defaults for what it omits."""

    host: str
    port: int
    virtual_host: str
    user: str
    password: str
    tls: bool


def amqp_address(url: str) -> AmqpAddress:
    """Parse the URL of a RabbitMQ broker; raises ValueError, without the password, for an invalid one."""
    _refuse_bad(url)
    parts = urlsplit(url)
    tls = parts.scheme == "amqps"
    return AmqpAddress(
        host=parts.hostname or "",
        port=parts.port or (5671 if tls else 5672),
        virtual_host=unquote(parts.path[1:]) or "/",
        user=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        tls=tls,
    )


def embedded_path(url: str) -> Path | None:
    """Return the file of an embedded broker, None for RabbitMQ's URL; raises ValueError for an invalid one."""
    _refuse_bad(url)
    return Path(unquote(url.removeprefix(SQLITE))) if url.startswith(SQLITE) else None


def _refuse_bad(url: str) -> None:
    if found := fault(url):
        message, fix = found
        raise ValueError(f"broker.url {redact_url(url)} {message}: {fix}")
