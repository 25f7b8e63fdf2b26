"""A whole service behind a real reverse proxy, nginx, as it is configured by hand and in its packages."""

import json
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.support import nginx
from tests.support.embedded import HANDLER, Client, config, port
from tests.support.nginx import PUBLIC, Nginx
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("proxy")]  # they share a service

JSON = {"Content_Type": "application/json"}
BARE = "location / {{ proxy_pass http://127.0.0.1:{port}; }}"  # the Host is the address of the service
NAMED = "location / {{ proxy_pass http://127.0.0.1:{port}; proxy_set_header Host $host; }}"
WITH_PORT = "location / {{ proxy_pass http://127.0.0.1:{port}; proxy_set_header Host $http_host; }}"
KEPT = (
    "location / {{ proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection ''; "
    "proxy_set_header Host $host; proxy_next_upstream off; }}"
)
TOKEN = "s3cret-token"


@pytest.fixture(scope="module")
def named(module_service) -> ServiceProcess:
    """A service with the public name in its control.hosts, for all tests that leave it as it is."""
    return module_service(config(control=f'port = 0\nhosts = ["{PUBLIC}"]'), {"jobs.py": HANDLER}).start()


@pytest.fixture
def behind(service, request) -> Iterator[Callable[..., tuple[ServiceProcess, Nginx]]]:
    """Start an nginx before the common service, or before one of its own where `control` is told."""
    if nginx.BINARY is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs nginx")
        pytest.skip("nginx is not installed")
    made: list[Nginx] = []

    def make(server: str, control: str | None = None, http: str = "") -> tuple[ServiceProcess, Nginx]:
        if control is None:
            running = request.getfixturevalue("named")
        else:
            running = service(config(control=f"port = 0\n{control}"), {"jobs.py": HANDLER}).start()
        at = port(running)
        made.append(Nginx(server.format(port=at), http.format(port=at)))
        return running, made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("server", [BARE, NAMED, WITH_PORT])
@pytest.mark.parametrize("tls", [False, True])
def test_a_browsers_own_page_is_not_another_site(behind, server, tls):
    """With the public name in control.hosts, looks and changes pass with Host passed on or not, also behind TLS."""
    _, proxy = behind(server)
    assert proxy.ask("GET", "/api/v1/status", tls=tls)[0] == 200
    origin = f"{'https' if tls else 'http'}://{PUBLIC}"
    change = ("PUT", "/api/v1/stages/work/consumers?wait=30", b'{"count": 3}')
    for marks in ({}, {"Origin": origin}, {"Origin": origin, "Sec_Fetch_Site": "same-origin"}):
        status, told = proxy.ask(*change, tls=tls, **JSON, **marks)
        assert status == 200, told
    for marks in ({"Origin": "https://evil.example"}, {"Origin": origin, "Sec_Fetch_Site": "cross-site"}):
        assert proxy.ask(*change, tls=tls, **JSON, **marks)[0] == 403


@pytest.mark.parametrize(("server", "status"), [(BARE, 403), (NAMED, 421)])
def test_a_name_that_is_not_configured_is_refused_with_the_setting(behind, server, status):
    """Without control.hosts a browser's change through a proxy is refused, and the sentence names the key."""
    _, proxy = behind(server, control="")
    got, told = proxy.ask("PUT", "/api/v1/stages/work/consumers", b'{"count": 3}', **JSON, Origin=f"https://{PUBLIC}")
    assert got == status
    assert "control.hosts" in json.loads(told)["detail"]


def test_a_prefix_that_the_proxy_takes_away(behind):
    """`location /mq/` with `proxy_pass .../` works for looks, changes and refusals."""
    _, proxy = behind("location /mq/ {{ proxy_pass http://127.0.0.1:{port}/; }}")
    assert proxy.ask("GET", "/mq/livez")[0] == 200
    assert proxy.ask("PUT", "/mq/api/v1/stages/work/consumers?wait=30", b'{"count": 1}', **JSON)[0] == 200
    status, told = proxy.ask("GET", "/mq/no/such")
    assert (status, "there is no such path" in told) == (404, True)


@pytest.mark.parametrize("server", [BARE, KEPT])
def test_a_followed_log_is_not_held_back(behind, server):
    """A line reaches a follower while the stream is open, though nginx buffers answers unless it is told not to."""
    running, proxy = behind(server, http="upstream service {{ server 127.0.0.1:{port}; keepalive 4; }}")
    connection = proxy.connect(timeout=30)
    connection.request("GET", "/api/v1/logs?follow=1&lines=0", headers={"Host": PUBLIC})
    answer = connection.getresponse()
    assert answer.readline() == b": mqworker\n"
    another = running.stage("work")["desired"]["consumers"] % 3 + 1
    assert running.ask("PUT", "/api/v1/stages/work/consumers?wait=30", {"count": another})[0] == 200
    while b"SetConsumers" not in (line := answer.readline()):
        assert line, "the stream ended"
    answer.close()
    connection.close()

    def free() -> bool:  # more than there are places
        return running.ask("PUT", "/api/v1/stages/work/consumers?wait=1", {"count": 3})[0] == 200

    wait_for(free, 20, "the place of a follower who left")


def test_wrong_tokens_of_one_client_lock_nobody_out(behind):
    """All clients come from the proxy's address: the right token passes beside as many wrong ones as anybody sends."""
    _, proxy = behind(NAMED, control=f'hosts = ["{PUBLIC}"]\ntoken = "{TOKEN}"')
    codes = [proxy.ask("GET", "/api/v1/status", Authorization=f"Bearer {n}")[0] for n in range(15)]
    assert codes == [401] * 10 + [429] * 5
    assert proxy.ask("GET", "/api/v1/status", Authorization=f"Bearer {TOKEN}")[0] == 200
    assert proxy.ask("GET", "/livez")[0] == 200


@pytest.mark.parametrize("buffered", ["on", "off"])
def test_large_bodies(behind, buffered):
    """A message of megabytes arrives whole; a body that is too large is refused by us, not with a broken connection."""
    running, proxy = behind(
        "client_max_body_size 0; location / {{ proxy_pass http://127.0.0.1:{port}; proxy_http_version 1.1; "
        f"proxy_request_buffering {buffered}; }}}}"
    )
    with Client(running) as client:
        before = client.ready("out")
    large = json.dumps({"n": 0, "more": "x" * (8 << 20)}).encode()
    status, told = proxy.ask("POST", "/api/v1/stages/work/messages?wait=30", large, **JSON)
    assert (status, json.loads(told)["outcome"]) == (200, "result"), told
    for path, size in (("/api/v1/stages/work/consumers", 1 << 20), ("/api/v1/stages/work/messages", 64 << 20)):
        status, told = proxy.ask("POST" if "messages" in path else "PUT", path, b" " * size, **JSON)
        assert status == 413, (path, told)
        assert "the body is larger than" in told
    with Client(running) as client:
        assert client.ready("out") == before + 1


def test_a_restarted_service_is_reached_over_a_kept_connection(behind):
    """nginx keeps its connections: after a restart of the service the first requests already get good answers."""
    running, proxy = behind(
        KEPT, control=f'hosts = ["{PUBLIC}"]', http="upstream service {{ server 127.0.0.1:{port}; keepalive 8; }}"
    )
    at = port(running)
    for _ in range(4):
        assert proxy.ask("GET", "/api/v1/status")[0] == 200
    for kill in (signal.SIGTERM, signal.SIGKILL):
        assert running.process is not None
        running.signal(kill)
        running.process.wait(60)
        assert proxy.ask("GET", "/api/v1/status")[0] == 502
        running.env["MQWORKER_CONTROL__PORT"] = str(at)
        running.start()
        for _ in range(12):
            status, told = proxy.ask("PUT", "/api/v1/stages/work/consumers", b'{"count": 2}', **JSON)
            assert status == 202, told
