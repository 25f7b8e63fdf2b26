"""The listeners: addresses in use, floods, slow and large requests, and stopping."""

import asyncio
import contextlib
import os
import resource
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from mqworker.http import serving
from mqworker.http.send_places import UNIX_SENDS
from mqworker.http.server import HttpServer
from tests.http.operator import LittleService
from tests.support.ports import free_port
from tests.support.waiting import AMPLE, wait_for


def other_server(service, port: int, path) -> HttpServer:
    return HttpServer(service.control, "127.0.0.1", port, path, "", ())


def test_a_taken_port_shows_at_bind(service, tmp_path):
    """A port in use is reported at once, nothing is left behind, and bind can be called again."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        second = other_server(service, port, tmp_path / "second.sock")
        with pytest.raises(OSError, match="another program listens there"):
            second.bind()
        assert not (tmp_path / "second.sock").exists()
    second.bind()
    second.stop(1)


def test_the_unix_socket_is_private(service):
    """Only its owner may use the socket file and its folder."""
    path = service.loaded.socket
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_living_unix_socket_is_not_taken(service):
    """A socket that somebody answers on is left alone, and so is a file that is not a socket."""
    with pytest.raises(OSError, match="another service answers"):
        other_server(service, 0, service.loaded.socket).bind()
    assert service.ask_unix("GET", "/livez").status == 200
    service.loaded.path.with_name("file").write_text("precious")
    with pytest.raises(OSError, match="is not a socket"):
        other_server(service, 0, service.loaded.path.with_name("file")).bind()
    assert service.loaded.path.with_name("file").read_text() == "precious"


def test_a_stale_unix_socket_is_replaced(service, tmp_path):
    """The socket file of a killed service is replaced; a stop removes only its own."""
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = other_server(service, 0, path)
    server.bind()
    assert path.is_socket()
    server.start()
    server.stop(1)
    assert not path.exists()


def test_idle_flood(service):
    """2,000 idle connections on TCP do not silence /livez on the unix socket, and TCP recovers while they last."""
    flood = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        for _ in range(2000):
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", service.port))
            flood.append(connection)
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            assert service.ask_unix("GET", "/livez").status == 200
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 5.0  # an idle connection may stay for longer
        assert service.ask("GET", "/livez").status == 200
    finally:
        for connection in flood:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_large_body_is_refused_while_it_comes(service):
    """A body over 64 kB gets 413 on every route but messages, with or without a length, before it has arrived."""
    for method, path in (("PUT", "/api/v1/stages/alpha/consumers"), ("POST", "/api/v1/drain"), ("GET", "/livez")):
        connection = service.connect()
        connection.putrequest(method, path)
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(1 << 30))
        connection.endheaders()
        response = connection.getresponse()
        assert (response.status, response.headers["Content-Type"]) == (413, "application/problem+json")
        assert b"the body is larger than 64000 bytes" in response.read()
        connection.close()
    with socket.create_connection(("127.0.0.1", service.port), AMPLE) as raw:
        head = f"PUT /api/v1/log-level HTTP/1.1\r\nHost: localhost:{service.port}\r\nTransfer-Encoding: chunked\r\n\r\n"
        raw.sendall(head.encode())
        for _ in range(1000):  # all of it, as most clients do before they read
            raw.sendall(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
        assert b" 413 " in raw.recv(1000)
    assert service.drained is False


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"AMQP\x00\x00\x09\x01",
        os.urandom(3000),
    ],
)
def test_garbage(service, data):
    """Bytes that are not HTTP end their connection or are refused, and the server goes on."""
    with socket.create_connection(("127.0.0.1", service.port), AMPLE) as raw:
        raw.sendall(data)
        raw.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            assert b" 200 " not in raw.recv(4000)
    assert service.ask("GET", "/livez").status == 200


def test_requests_one_after_the_other_are_never_overdue():
    """A connection lives as long as its requests arrive, whichever moments of them maintenance sees."""
    channel = serving._Channel.__new__(serving._Channel)
    channel.total_outbufs_len, channel.requests = 0, []
    for now in range(1, 100):
        channel.request = None
        channel.request = object()  # the next one, often at the address of the one before
        assert not channel.overdue(now, serving.IDLE)
    channel.requests, channel.request = [channel.request], None
    assert not channel.overdue(200, serving.IDLE)


def test_a_head_that_cannot_be_parsed(service):
    """A header with a control character, and a request line that is none, are answered with 400, not cut off."""
    for head in (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: \x1b\r\n", b"nonsense\r\n"):
        with socket.create_connection(("127.0.0.1", service.port), AMPLE) as caller:
            caller.sendall(head + b"\r\n")
            assert caller.makefile("rb").readline().split()[1] == b"400"


def test_requests_that_do_not_end(tmp_path, monkeypatch):
    """An incomplete request, an unread answer and an idle connection end in time."""
    for name in ("ARRIVAL", "UNREAD", "IDLE"):
        monkeypatch.setattr(serving, name, 0.5)
    service = LittleService(tmp_path)
    try:
        with (
            socket.create_connection(("127.0.0.1", service.port), AMPLE) as idle,
            socket.create_connection(("127.0.0.1", service.port), AMPLE) as dripping,
            socket.socket() as unreading,
        ):
            unreading.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            unreading.connect(("127.0.0.1", service.port))
            host = f"Host: localhost:{service.port}\r\n\r\n"
            unreading.sendall(f"GET /api/v1/openapi.json HTTP/1.1\r\n{host}".encode() * 2000)
            gone = threading.Event()

            def drip() -> None:
                with contextlib.suppress(OSError):
                    while not gone.wait(0.1):
                        dripping.sendall(b"X")
                gone.set()

            dripper = threading.Thread(target=drip)
            dripper.start()
            assert idle.recv(1) == b""
            assert gone.wait(AMPLE)
            dripper.join(AMPLE)
            wait_for(lambda: not service.server._listeners[0]._server.active_channels, 8, "the unread one ended")
        monkeypatch.undo()
        assert service.ask("GET", "/livez").status == 200
    finally:
        service.close()


def test_stop_is_bounded(service):
    """Stopping during a request that hangs ends in time; a request in progress is finished."""
    unblock = threading.Event()
    started = threading.Event()

    def slow(_arguments):
        started.set()
        unblock.wait(AMPLE)
        return []

    service.admin["queues"] = slow
    answers = []

    def ask() -> None:
        with contextlib.suppress(OSError):
            answers.append(service.ask("GET", "/api/v1/queues").status)

    hanging = threading.Thread(target=ask)
    hanging.start()
    assert started.wait(AMPLE)
    finish = threading.Timer(0.3, unblock.set)
    finish.start()
    began = time.monotonic()
    service.server.stop(AMPLE)
    took = time.monotonic() - began
    hanging.join(AMPLE)
    finish.join()
    assert (answers, took < AMPLE / 3) == ([200], True)
    with pytest.raises(OSError):
        service.ask("GET", "/livez")


def test_stop_does_not_wait_for_ever(service):
    """A request that never ends delays the stop at most by its deadline."""
    unblock = threading.Event()
    service.admin["queues"] = lambda _arguments: unblock.wait(AMPLE)
    connection = service.connect()
    connection.request("GET", "/api/v1/queues")
    wait_for(lambda: service.asked, 5, "the request is being answered")
    began = time.monotonic()
    service.server.stop(0.5)
    assert time.monotonic() - began < AMPLE / 3
    unblock.set()
    connection.close()


def test_what_has_queued_is_answered_at_a_stop(service):
    """Sends that wait for a place or a thread when the server is stopped are sent and answered all the same."""
    release, statuses = threading.Event(), []

    async def later() -> None:
        while not release.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.01)

    service.admin["send"] = lambda _arguments: later()

    def send() -> None:
        statuses.append(service.ask_unix("POST", "/api/v1/stages/alpha/messages", {}).status)

    sends = [threading.Thread(target=send) for _ in range(3 * UNIX_SENDS)]
    for each in sends:
        each.start()
    channels = service.server._listeners[1]._server.active_channels
    queued = len(sends) - UNIX_SENDS
    wait_for(lambda: sum(len(each.requests) for each in [*channels.values()]) == len(sends), AMPLE, "all to arrive")
    assert len(service.asked) <= len(sends) - queued
    stop = threading.Thread(target=service.server.stop, args=(AMPLE / 2,))
    stop.start()
    assert service.server._answering.api.stopping.wait(AMPLE)
    release.set()
    for each in [*sends, stop]:
        each.join(AMPLE)
    assert statuses == [202] * len(sends)


def test_the_server_has_few_threads(tmp_path):
    """Calls that must not wait for each other have threads of their own, and these are few."""
    before = threading.active_count()
    little = LittleService(tmp_path)
    threads = threading.active_count() - before
    little.close()
    assert threads < 75


def test_nothing_is_left(tmp_path):
    """Starting and stopping leaves no thread and no descriptor."""

    def things() -> tuple[int, int]:
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    LittleService(tmp_path).close()
    threads, files = things()
    for _ in range(5):
        little = LittleService(tmp_path)
        assert little.ask("GET", "/livez").status == 200
        assert little.ask_unix("GET", "/livez").status == 200
        little.close()
    wait_for(lambda: things()[0] <= threads and things()[1] <= files, 5, "all threads and descriptors are gone")
