"""The page's logins: cookies that need no memory, and tickets that are used once.

Pure, but for the lock of the tickets; used by login.py in the server's threads. A cookie says what its holder may do
and until when, under an HMAC: it outlives a killed Service, whose key is in a file, and ends with a changed token,
which is part of the key. It cannot be ended singly; a new key ends all of them. What was changed, is of another
service, has expired or is of the future is not a session; nothing here raises.
"""

import base64
import hashlib
import hmac
import re
import secrets
import threading
from typing import Literal, NamedTuple

Role = Literal["control", "read"]

LASTS = 12 * 3600  # seconds that a cookie is valid
RENEWED = 3600  # seconds after which the page's next request gets a new one
LONGEST = 7 * 24 * 3600  # seconds after which nothing is renewed: the user logs in again
CLOCK = 300  # seconds by which the clock may be set back and sessions go on: by more, they would last longer
TICKET_LASTS = 300.0  # seconds
TICKETS = 100  # tickets at the same time; a further one ends the oldest
KEY_SIZE = 32  # bytes

_VALUE = re.compile(
    r"v1\.(?P<role>control|read)\.(?P<begun>\d{1,12})\.(?P<expires>\d{1,12})\.(?P<nonce>[0-9a-f]{16})"
    r"\.(?P<scheme>[sp])(?P<path>[A-Za-z0-9_-]{0,300})\.(?P<mac>[A-Za-z0-9_-]{43})",
    re.ASCII,
)
_PATH = re.compile(r"/(?:[A-Za-z0-9._~%@:+-]+/)*", re.ASCII)
_LONGEST_PATH = 200


class PageLogin(NamedTuple):
    """What a cookie says."""

    role: Role
    begun: int  # wall clock, of the login
    expires: int  # wall clock
    nonce: str
    path: str  # what the cookie is sent for: the page's prefix
    secure: bool  # it is sent over https only

    @property
    def by(self) -> str:
        """Return how log and audit name it."""
        return f"session {self.nonce[:4]}"


def instance(state_dir: object) -> str:
    """Return what distinguishes the services of one host: cookies are sent to every port."""
    return hashlib.sha256(str(state_dir).encode(errors="surrogateescape")).hexdigest()[:8]


def is_prefix(path: str) -> bool:
    """Return whether a cookie can be limited to this path: it has no character that ends an attribute."""
    return len(path) <= _LONGEST_PATH and _PATH.fullmatch(path) is not None


class Sessions:
    """Writes and reads the cookies of one service; `tokens` are those that a session stands for."""

    def __init__(self, name: str, key: bytes, tokens: tuple[str, ...]) -> None:
        self.cookie = f"mqworker_{name}"
        self._tokens = tokens
        self.use(key)

    def use(self, key: bytes) -> None:
        """Change the key, which ends all sessions."""
        hashes = b"".join(hashlib.sha256(token.encode()).digest() for token in self._tokens)
        self._key = hmac.digest(key, self.cookie.encode() + hashes, "sha256")

    def begin(self, role: Role, path: str, now: float, *, secure: bool) -> PageLogin:
        """Return a new session."""
        return PageLogin(role, int(now), int(now) + LASTS, secrets.token_hex(8), path, secure)

    def renewed(self, session: PageLogin, now: float) -> PageLogin | None:
        """Return the session with a later end, if that is due."""
        expires = min(int(now) + LASTS, session.begun + LONGEST)
        return session._replace(expires=expires) if expires - session.expires >= RENEWED else None

    def set_cookie(self, session: PageLogin, now: float) -> str:
        """Return the Set-Cookie header that gives a browser this session."""
        return self._attributes(self._value(session), session, max(0, session.expires - int(now)))

    def unset_cookie(self, session: PageLogin) -> str:
        """Return the Set-Cookie header that makes a browser forget it."""
        return self._attributes("", session, 0)

    def read(self, header: str, now: float) -> PageLogin | None:
        """Return the session in a Cookie header."""
        pairs = (pair.strip().partition("=") for pair in header.split(";"))
        values = (value for name, _, value in pairs if name == self.cookie)  # others on this host may set some too
        return next(filter(None, (self._read(value, now) for value in values)), None)

    def _read(self, value: str, now: float) -> PageLogin | None:
        found = _VALUE.fullmatch(value)
        if found is None:
            return None
        payload, _, mac = value.rpartition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(payload)):
            return None
        begun, expires = int(found["begun"]), int(found["expires"])
        if begun > now + CLOCK or not now < expires <= now + LASTS + CLOCK:
            return None
        role: Role = "control" if found["role"] == "control" else "read"
        path = base64.urlsafe_b64decode(found["path"] + "=" * (-len(found["path"]) % 4)).decode("ascii")
        return PageLogin(role, begun, expires, found["nonce"], path, found["scheme"] == "s")

    def _value(self, session: PageLogin) -> str:
        path = base64.urlsafe_b64encode(session.path.encode()).decode().rstrip("=")
        where = ("s" if session.secure else "p") + path
        payload = f"v1.{session.role}.{session.begun}.{session.expires}.{session.nonce}.{where}"
        return f"{payload}.{self._mac(payload).decode()}"

    def _mac(self, payload: str) -> bytes:
        return base64.urlsafe_b64encode(hmac.digest(self._key, payload.encode(), "sha256")).rstrip(b"=")

    def _attributes(self, value: str, session: PageLogin, age: int) -> str:
        secure = "; Secure" if session.secure else ""
        return f"{self.cookie}={value}; Path={session.path}; Max-Age={age}; HttpOnly; SameSite=Strict{secure}"


class Tickets:
    """What `mqworker ui` puts into the address: each begins one session, within five minutes."""

    def __init__(self) -> None:
        self._open: dict[bytes, tuple[Role, float]] = {}  # by digest, in the order in which they end
        self._lock = threading.Lock()

    def make(self, role: Role, now: float) -> str:
        """Return a new ticket."""
        ticket = secrets.token_urlsafe(KEY_SIZE)
        with self._lock:
            self._forget(now)
            while len(self._open) >= TICKETS:
                del self._open[next(iter(self._open))]
            self._open[_digest(ticket)] = (role, now + TICKET_LASTS)
        return ticket

    def redeem(self, ticket: str, now: float) -> Role | None:
        """Return what the ticket's holder may do, and end the ticket; None: there is no such ticket any more."""
        with self._lock:
            self._forget(now)
            role, _ = self._open.pop(_digest(ticket), (None, 0.0))
        return role

    def end_all(self) -> None:
        """End every ticket."""
        with self._lock:
            self._open.clear()

    def _forget(self, now: float) -> None:
        for digest in [digest for digest, (_, until) in self._open.items() if now >= until]:
            del self._open[digest]


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode(errors="surrogatepass")).digest()
