"""Who calls, and what he may do: by a token, or by a cookie of the page.

Runs in the server's threads; one `Logins` for all listeners. Owns the tickets, the key of the cookies and its file. The
unix socket admits only the service's user, who may do everything, and so may anybody where no token is configured.
Otherwise a caller sends one of the two tokens, or the cookie that the page got for a token or for a ticket. A cookie is
sent by the browser whoever asks it to: so what comes with one must also show that our own page has sent it. Fails with
Problems: 401, 403, 429.
"""

import contextlib
import hashlib
import hmac
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mqworker.http.access import FailedLogins, refuse_foreign
from mqworker.http.problems import Problem
from mqworker.http.sessions import KEY_SIZE, PageLogin, Role, Sessions, Tickets, instance
from mqworker.ipc import logs

CALLER = "mqworker.caller"  # in the environ: the Identity; none where nobody is asked who he is
PAGE = "page"  # what our page sends as X-Mqworker: another site's page may not send that header
KEY = "session.key"
_CHALLENGE = {"WWW-Authenticate": "Bearer"}

log = logging.getLogger("mqworker.http")


class Identity(NamedTuple):
    """Who sent a request."""

    role: Role
    by: str  # for log and audit
    session: PageLogin | None = None  # it came with a cookie


SOCKET = Identity("control", "socket")
ANYBODY = Identity("control", "anybody")


class Logins:
    """See the module head. `token` and `read_token` are configured; without the first there is nothing to log in to."""

    def __init__(self, state_dir: Path, token: str, read_token: str) -> None:
        self.instance = instance(state_dir)
        self.needed = bool(token)
        self.url = ""  # where we listen, for who is on this machine
        self.tickets = Tickets()
        self.begun: dict[Role, int] = {"control": 0, "read": 0}  # sessions, for the metrics
        self._tokens: list[tuple[bytes, Identity]] = []
        if token:
            self._tokens.append((_digest(token.encode()), Identity("control", "token")))
        if token and read_token:
            self._tokens.append((_digest(read_token.encode()), Identity("read", "read token")))
        self._failed = FailedLogins()
        self._path = state_dir / KEY
        key = session_key(self._path) if token else secrets.token_bytes(KEY_SIZE)
        self.sessions = Sessions(self.instance, key, (token, read_token))

    def identify(self, environ: Mapping[str, Any]) -> Identity:
        """Return who sends a request over TCP; raises a Problem when it is not known."""
        if not self.needed:
            return ANYBODY
        scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.check(token.strip().encode("latin-1", "replace"), environ, "tokens")
        session = self.sessions.read(environ.get("HTTP_COOKIE", ""), time.time())
        if session is None:
            raise Problem(401, "a token is needed: Authorization: Bearer ...", headers=_CHALLENGE)
        refuse_foreign(environ)
        if not (page_sent(environ) or _browser_sent(environ)):
            raise Problem(403, f"a cookie is accepted only from the page, which sends X-Mqworker: {PAGE}")
        return Identity(session.role, session.by, session)

    def goes_on(self, environ: Mapping[str, Any]) -> Callable[[], bool]:
        """Return a function that returns whether the login of a request has not ended meanwhile."""
        caller: Identity | None = environ.get(CALLER)
        if caller is None or caller.session is None:
            return lambda: True  # a token is not changed while we live
        cookie = environ.get("HTTP_COOKIE", "")
        return lambda: self.sessions.read(cookie, time.time()) is not None

    def check(self, token: bytes, environ: Mapping[str, Any], what: str) -> Identity:
        """Return whose token this is; raises a Problem, also for a peer that has sent many wrong ones."""
        given = _digest(token)  # of the same length whatever was sent, so that the time reveals nothing
        found = [caller for digest, caller in self._tokens if hmac.compare_digest(given, digest)]
        if found:
            return found[0]  # also beside many wrong ones from the same address, which may be that of a proxy
        raise self.refusal(environ, what)

    def refusal(self, environ: Mapping[str, Any], what: str) -> Problem:
        """Count a wrong token or ticket, and return the Problem to raise."""
        peer, now = str(environ.get("REMOTE_ADDR", "")), time.monotonic()
        if self._failed.too_many(peer, now):
            return Problem(429, f"too many wrong {what} from this address", headers={"Retry-After": "10"})
        self._failed.failed(peer, now)
        logs.report(log, logging.WARNING, "login_refused", f"wrong {what.removesuffix('s')} from {peer}")
        return Problem(401, f"the {what.removesuffix('s')} is wrong", headers=_CHALLENGE)

    def renewal(self, caller: Identity | None) -> list[tuple[str, str]]:
        """Return the headers that give the caller a later end, if that is due."""
        now = time.time()
        renewed = self.sessions.renewed(caller.session, now) if caller is not None and caller.session else None
        return [] if renewed is None else [("Set-Cookie", self.sessions.set_cookie(renewed, now))]

    def end_all(self) -> None:
        """End all sessions and tickets; raises OSError when the new key cannot be stored."""
        self.sessions.use(_new_key(self._path) if self.needed else secrets.token_bytes(KEY_SIZE))
        self.tickets.end_all()


def page_sent(environ: Mapping[str, Any]) -> bool:
    """Return whether our page's script has sent it: others' need our consent for this header, which nobody gets."""
    return bool(environ.get("HTTP_X_MQWORKER") == PAGE)


def _browser_sent(environ: Mapping[str, Any]) -> bool:
    """Return whether it is a link on our page, or an address that its user has typed."""
    return environ["REQUEST_METHOD"] in ("GET", "HEAD") and "HTTP_SEC_FETCH_SITE" in environ


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


# --- the key


def session_key(path: Path) -> bytes:
    """Return the key of the cookies, made at the first start; where it cannot be kept, one for this life."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with contextlib.closing(os.fdopen(fd, "rb")) as file:
            private = not os.fstat(fd).st_mode & (stat.S_IRWXG | stat.S_IRWXO)
            key = file.read(KEY_SIZE + 1)
        if private and len(key) == KEY_SIZE:
            return key
    try:
        return _new_key(path)
    except OSError as error:
        what = f"the key of the page's logins cannot be kept in {path}, so they end with this process: {error.strerror}"
        logs.report(log, logging.WARNING, "session_key_made", what)
        return secrets.token_bytes(KEY_SIZE)


def _new_key(path: Path) -> bytes:
    key, neighbour = secrets.token_bytes(KEY_SIZE), path.with_suffix(".new")
    neighbour.unlink(missing_ok=True)
    fd = os.open(neighbour, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with contextlib.closing(os.fdopen(fd, "wb")) as file:
        file.write(key)
        file.flush()
        os.fsync(fd)
    neighbour.replace(path)
    logs.report(log, logging.INFO, "session_key_made", "a new key for the logins of the page: earlier ones have ended")
    return key
