"""Other services: real ones, and whatever else may answer at an address of the list."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from mqworker.config.load import ConfigError, load
from mqworker.http import peers
from mqworker.http.peers import LARGEST, PATIENCE, STAGES, TEXT, Peers, ask
from tests.http.operator import TOML, LittleService
from tests.support.ports import free_port
from tests.support.waiting import wait_for

TOKEN, READ = "full-canary-token", "read-canary-token"
STATUS = {"service": "x", "version": "1", "state": "running", "paused": False, "stages": []}
OK = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


class Impostor:
    """A socket that answers each caller with `answer(connection)`, and keeps what it was sent."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self.requests: list[bytes] = []
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                try:
                    self.requests.append(connection.recv(65_536))
                    self._answer(connection)
                except OSError:
                    continue

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def impostor() -> Iterator[Callable[..., Impostor]]:
    """Make impostors; `answer` may be what is sent."""
    made: list[Impostor] = []

    def make(answer) -> Impostor:
        given = answer if callable(answer) else lambda connection: connection.sendall(answer)
        made.append(Impostor(given))
        return made[-1]

    yield make
    for each in made:
        each.close()


def answer_of(body: bytes, head: str = OK) -> bytes:
    return head.format(len(body)).encode() + body


def drip(connection: socket.socket) -> None:
    """Send a byte at a time, for ever."""
    connection.sendall(OK.format(1000).encode())
    while True:
        connection.sendall(b" ")
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (answer_of(b"not JSON"), "no mqworker service"),
        (answer_of(b"[]"), "no mqworker service"),
        (answer_of(b'{"service": 1}'), "no mqworker service"),
        (answer_of(b"[" * 100_000), "no mqworker service"),
        (answer_of(b'{"service": "\xff"}'), "no mqworker service"),
        (answer_of(b" " * (LARGEST + 10)), "too large"),
        (answer_of(b"", "HTTP/1.1 401 No\r\nContent-Length: {}\r\n\r\n"), "control.read_token has to be the same"),
        (answer_of(b"", "HTTP/1.1 421 No\r\nContent-Length: {}\r\n\r\n"), "control.hosts"),
        (answer_of(b"", "HTTP/1.1 500 No\r\nContent-Length: {}\r\n\r\n"), "it answers 500"),
        (b"", "cannot be reached"),
        (b"\x00\xff" * 100 + b"\r\n\r\n", "cannot be reached"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n", "cannot be reached"),
    ],
    ids=["text", "list", "types", "nested", "bytes", "large", "token", "host", "fault", "nothing", "noise", "headers"],
)
def test_whatever_answers(impostor, answer, problem):
    """What is not the status of a service is told as a problem in one sentence; nothing is raised."""
    peer = ask(impostor(answer).url, "")
    assert (peer.reached, problem in peer.problem) == (False, True), peer.problem


def test_a_redirection_is_not_followed(impostor):
    """No answer of a peer makes us call another address."""
    target = impostor(answer_of(json.dumps(STATUS).encode()))
    leads = f"HTTP/1.1 302 Found\r\nLocation: {target.url}/api/v1/status\r\nContent-Length: 0\r\n\r\n"
    peer = ask(impostor(leads.encode()).url, READ)
    assert (peer.reached, "leads elsewhere" in peer.problem, target.requests) == (False, True, [])


@pytest.mark.parametrize("answer", [drip, lambda connection: connection.recv(1)], ids=["drips", "silent"])
def test_a_peer_that_takes_its_time(impostor, answer):
    """Two seconds are all that a peer has, also one that sends a byte now and then."""
    begun = time.monotonic()
    peer = ask(impostor(answer).url, "")
    assert (peer.reached, peer.problem) == (False, f"no answer within {PATIENCE:g} s")
    assert time.monotonic() - begun < PATIENCE + 15  # all of it would take 50 s


def test_nobody_listens():
    """An address where nothing listens is told with the reason."""
    assert ask(f"http://127.0.0.1:{free_port()}", "").problem == "it cannot be reached: Connection refused"


def test_a_hostile_status_is_cut(impostor):
    """Names, sentences and the number of stages are bounded, whatever a peer tells."""
    stage = {
        "name": "n" * 999,
        "state": "s",
        "why": {"sentence": "<script>" * 999},
        "actual": {"rate": 1, "backlog": 2},
    }
    body = json.dumps(STATUS | {"service": "x" * 9999, "stages": [stage] * (STAGES + 5), "more": "ignored"}).encode()
    peer = ask(impostor(answer_of(body)).url, "")
    assert (peer.reached, len(peer.service), len(peer.stages), peer.more) == (True, TEXT, STAGES, 5)
    assert (len(peer.stages[0].name), len(peer.stages[0].why["sentence"])) == (TEXT, TEXT)
    assert (peer.stages[0].rate, peer.stages[0].backlog) == (1.0, 2)


def test_one_service_shows_another(tmp_path, impostor):
    """The status of a real peer is told, asked with the read token alone, and only while somebody looks."""
    (there := tmp_path / "there").mkdir()
    (here := tmp_path / "here").mkdir()
    spy = impostor(answer_of(json.dumps(STATUS).encode()))
    other = LittleService(there, "another", read_token=READ)
    urls = [f"http://127.0.0.1:{other.port}", f"{spy.url}/mq/"]
    toml = TOML.replace("port = 0", f"port = 0\npeers = {json.dumps(urls)}")
    service = LittleService(here, TOKEN, toml, read_token=READ)
    try:
        bearer = {"Authorization": f"Bearer {READ}"}
        assert spy.requests == []
        first = service.ask("GET", "/api/v1/peers", **bearer).json["peers"]
        assert [(peer["url"], peer["reached"]) for peer in first] == [(url, None) for url in urls]

        def told() -> list[dict]:
            return service.ask("GET", "/api/v1/peers", **bearer).json["peers"]

        wait_for(lambda: all(peer["reached"] for peer in told()), 20, "the answers of both peers")
        peer = told()[0]
        assert (peer["service"], peer["state"], peer["problem"]) == ("test", "running", "")
        assert [stage["name"] for stage in peer["stages"]] == ["alpha", "beta"]
        assert peer["stages"][0]["why"]["sentence"]
        assert spy.requests[0].startswith(b"GET /mq/api/v1/status HTTP/1.1\r\n")
        assert b"Bearer " + READ.encode() in spy.requests[0]
        assert TOKEN.encode() not in b"".join(spy.requests)
        assert other.changes == []
    finally:
        service.close()
        other.close()


def test_nobody_is_asked_while_nobody_looks(impostor, monkeypatch):
    """The thread ends when nobody has looked for a while, and begins again with the next question."""
    monkeypatch.setattr(peers, "EVERY", 0.02)
    monkeypatch.setattr(peers, "LOOKING", 0.2)
    spy = impostor(answer_of(json.dumps(STATUS).encode()))
    stopping = threading.Event()
    looking = Peers([spy.url], "", stopping)

    def runs() -> bool:
        return any(thread.name == "peers" for thread in threading.enumerate())

    assert not runs()
    for _ in range(2):
        looking.known()
        assert runs()
        wait_for(lambda: not runs(), 10, "the thread to end")
    asked = len(spy.requests)
    looking.known()
    stopping.set()
    wait_for(lambda: not runs(), 10, "the thread to end with the server")
    looking.known()
    assert not runs()
    assert asked >= 2


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a",
        "http://",
        "http://a b",
        "http://user:pw@a",
        "http://a/?x=1",
        "http://a/#f",
        "http://a\r\nX: y",
        "//a",
        "a:1",
    ],
)
def test_what_is_no_address_is_refused_at_the_start(tmp_path, url):
    """An address that could mean something else is refused by the configuration."""
    path = tmp_path / "mqworker.toml"
    path.write_text(TOML.replace("port = 0", f"peers = {json.dumps([url])}"))
    with pytest.raises(ConfigError, match=r"control\.peers"):
        load(path, {}, {})
