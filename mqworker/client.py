"""A small HTTP client for the control API of a running service, over its unix socket or TCP, with the standard library.

Runs in the command line and the watchdog, one thread. Owns one kept-alive connection. Every failure is raised as a
`CallError`: one clear sentence and the exit code for that kind of failure.
"""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

from mqworker.address import Address, CallError
from mqworker.exits import Exit

API = "/api/v1"
IDLE_MAX = 20.0  # seconds after which a kept connection is not trusted with a request that must not be sent twice
ANSWER_MAX = 256 << 20  # bytes
BLOCK = 1 << 16  # bytes that are read at once of an answer of any length
CONNECT_MAX = 5.0  # seconds


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    content_type: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the decoded body; raises `CallError`."""
        try:
            return json.loads(self.body)
        except ValueError:
            text = f"the answer (HTTP {self.status}) is not JSON: is this an mqworker service?"
            raise CallError(Exit.NO_ANSWER, text, self.status) from None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)
        except OSError:
            self.close()
            raise


class Client:
    """See the module head. `timeout` is how long one answer may take, in seconds."""

    def __init__(self, address: Address, timeout: float = 5.0) -> None:
        self.address = address
        self.timeout = timeout
        self._connection: http.client.HTTPConnection | None = None
        self._used = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, path: str, timeout: float | None = None) -> Any:
        """GET a JSON document below /api/v1."""
        return self.call("GET", path, timeout=timeout)

    def call(
        self,
        method: str,
        path: str,
        payload: Any = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request with a JSON body below /api/v1; return the decoded answer (None for an empty one)."""
        body = b"" if payload is None else json.dumps(payload).encode()
        answer = self.request(method, API + path, body, "application/json" if body else "", timeout, headers)
        return answer.json() if answer.body else None

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        content_type: str = "",
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send any request; raises `CallError` for every status of 400 and above."""
        timeout = self.timeout if timeout is None else timeout
        headers = self._headers(content_type) | dict(headers or {})
        repeatable = method != "POST"  # sent again only when a kept connection turns out to be closed
        if self._connection is not None and not repeatable and time.monotonic() - self._used > IDLE_MAX:
            self.close()
        while True:
            kept = self._connection is not None
            connection = self._connect(timeout)
            sent = False  # while it is not sent whole, the service cannot have acted on it
            try:
                connection.request(method, path, body or None, headers)
                sent = True
                response = connection.getresponse()
                answer = self._read(response)
            except TimeoutError:
                self.close()
                raise self._timed_out(timeout) from None
            except (http.client.HTTPException, OSError) as error:
                self.close()
                lost = isinstance(error, (http.client.RemoteDisconnected, ConnectionError))
                if kept and lost and (repeatable or not sent):
                    continue
                text = f"{self.address} closed the connection without an answer ({_cause(error)})"
                raise CallError(Exit.NO_ANSWER, f"{text}; see the service's log") from None
            self._used = time.monotonic()
            if answer.status >= 400:
                raise _refusal(answer, self.address)
            return answer

    def events(self, path: str, silence: float = 60.0) -> Iterator[tuple[str, str]]:
        """Yield (event, data) of a stream of server-sent events until the service closes it."""
        connection = self._connect(silence)
        try:
            connection.request("GET", API + path, headers=self._headers("") | {"Accept": "text/event-stream"})
            response = connection.getresponse()
            if response.status >= 400:
                raise _refusal(self._read(response), self.address)
            event, data = "", []
            while raw := response.readline():
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                if line.startswith("data:"):
                    data.append(line[5:].removeprefix(" "))
                elif line.startswith("event:"):
                    event = line[6:].strip()
                elif not line and data:
                    yield event, "\n".join(data)
                    event, data = "", []
        except TimeoutError:
            raise self._timed_out(silence) from None
        except (http.client.HTTPException, OSError) as error:
            raise CallError(Exit.NO_ANSWER, f"{self.address}: the stream was interrupted ({_cause(error)})") from None
        finally:
            self.close()

    def lines(self, path: str, silence: float = 60.0) -> Iterator[bytes]:
        """Yield the lines of an answer of any length; raises `CallError`, also if it is cut off."""
        connection = self._connect(silence)
        try:
            connection.request("GET", API + path, headers=self._headers(""))
            response = connection.getresponse()
            if response.status >= 400:
                raise _refusal(self._read(response), self.address)
            rest = b""
            while data := response.read(BLOCK):  # `readline` does not tell when chunks are cut off between two
                *lines, rest = (rest + data).split(b"\n")
                yield from (line + b"\n" for line in lines)
            if rest or response.length:
                raise http.client.IncompleteRead(rest, response.length)
        except TimeoutError:
            raise self._timed_out(silence) from None
        except (http.client.HTTPException, OSError) as error:
            raise CallError(Exit.NO_ANSWER, f"{self.address}: the answer was cut off ({_cause(error)})") from None
        finally:
            self.close()

    # --- inside

    def _headers(self, content_type: str) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if content_type:
            headers["Content-Type"] = content_type
        if self.address.token:
            headers["Authorization"] = f"Bearer {self.address.token}"
        return headers

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        connection = self._connection
        if connection is None or connection.sock is None:
            connection = self._connection = self._new(min(timeout, CONNECT_MAX))
        connection.timeout = timeout
        connection.sock.settimeout(timeout)
        return connection

    def _new(self, timeout: float) -> http.client.HTTPConnection:
        address = self.address
        connection = (
            _UnixConnection(address.socket, timeout)
            if address.socket
            else http.client.HTTPConnection(address.host, address.port, timeout=timeout)
        )
        try:
            connection.connect()
        except (TimeoutError, BlockingIOError):
            raise self._timed_out(timeout) from None
        except PermissionError:
            text = f"this user may not open {address}: run the command as the service's user"
            raise CallError(Exit.NOT_RUNNING, text) from None
        except OSError as error:
            text = f"no service is running at {address} ({_cause(error)}); start it with `mqworker run`"
            raise CallError(Exit.NOT_RUNNING, text) from None
        return connection

    def _timed_out(self, timeout: float) -> CallError:
        text = f"{self.address} did not answer within {timeout:g} s"
        return CallError(Exit.NO_ANSWER, f"{text}; try again with a longer --timeout, or see the service's log")

    def _read(self, response: http.client.HTTPResponse) -> Answer:
        body = response.read(ANSWER_MAX + 1)
        if len(body) > ANSWER_MAX:
            self.close()
            raise CallError(Exit.NO_ANSWER, f"the answer is larger than {ANSWER_MAX >> 20} MiB", response.status)
        content_type = response.getheader("Content-Type", "").partition(";")[0].strip()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, content_type, headers, body)


def _cause(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _refusal(answer: Answer, address: Address) -> CallError:
    """Turn a problem document (RFC 9457) into one sentence."""
    problem: dict[str, Any] = {}
    if "json" in answer.content_type:
        with contextlib.suppress(ValueError):
            decoded = json.loads(answer.body)
            problem = decoded if isinstance(decoded, dict) else {}
    text = str(problem.get("detail") or problem.get("title") or f"HTTP {answer.status} from {address}")
    fields = [item for item in problem.get("fields") or () if isinstance(item, dict)]
    causes = [f"{item['field']}: {item['problem']}" if item["field"] else item["problem"] for item in fields]
    if missing := [cause for cause in causes if cause not in text]:
        text = f"{text}: {'; '.join(missing)}"
    if answer.status in (401, 403):
        return CallError(Exit.REFUSED, f"refused: {text}", answer.status, problem)
    error = CallError(_code(answer.status, problem), text, answer.status, problem)
    with contextlib.suppress(ValueError):  # a proxy may give a date
        error.retry_after = max(1, int(answer.headers.get("retry-after", "1")))
    return error


def _code(status: int, problem: Mapping[str, Any]) -> Exit:
    if problem.get("kind") in ("undone", "code"):
        return Exit.CONFIG
    if problem.get("kind") == "taken_back":
        return Exit.GIVEN_BACK
    if status < 500:
        return Exit.USAGE
    if problem.get("kind") == "unavailable":
        return Exit.BROKER_UNREACHABLE
    return Exit.NO_ANSWER if status in (502, 503, 504) else Exit.INTERNAL
