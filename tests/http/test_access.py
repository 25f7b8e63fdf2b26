"""Who may call: Host, token, browsers on other sites. Tables for the pure parts, real sockets for the rest."""

import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.http.access import HOSTS, FailedLogins, refuse_foreign, tcp_hosts
from mqworker.http.problems import Problem
from tests.http.operator import LittleService, ask

TOKEN = "s3cret-canary-token"


@pytest.fixture
def guarded(tmp_path):
    little = LittleService(tmp_path, TOKEN, hosts=("mq.example.org", "other.example:8443"))
    yield little
    little.close()


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1:5002", True),
        ("localhost:5002", True),
        ("LOCALHOST:5002", True),
        ("[::1]:5002", True),
        ("10.1.2.3:5002", True),
        ("mq.example.org", True),
        ("mq.example.org:5002", True),
        ("other.example:8443", True),
        ("localhost", True),
        ("127.0.0.1", True),
        ("[::1]", True),
        ("10.1.2.3", True),
        ("localhost:5003", True),
        ("localhost:80", True),
        ("mq.example.org:80", True),
        ("mq.example.org:443", True),
        ("", False),
        (":5002", False),
        ("localhost:", False),
        ("localhost:0", False),
        ("localhost:123456", False),
        ("10.1.2.4:5002", False),
        ("localhost.:5002", False),
        ("localhost:05002", False),
        ("localhost:5002.", False),
        ("127.1:5002", False),
        ("2130706433:5002", False),
        ("0x7f000001:5002", False),
        ("[::ffff:127.0.0.1]:5002", False),
        ("::1:5002", False),
        ("evil.example:5002", False),
        ("localhost:5002@evil.example", False),
        ("localhost:5002, evil.example", False),
        ("other.example", False),
        ("other.example:5002", False),
        ("xmq.example.org", False),
    ],
)
def test_host_list(host, ours):
    """Only our own names are accepted, with any port and without one; a name with a port only with that port."""
    assert tcp_hosts("10.1.2.3", 5002, ("mq.example.org", "Other.example:8443")).accept(host) is ours


@given(st.text() | st.builds("{}:{}".format, st.text(), st.integers()))
def test_no_other_host_is_ours(host):
    """A Host header is accepted only if it is one of three names, perhaps with a port."""
    ours = re.fullmatch(r"(localhost|127\.0\.0\.1|\[::1\])(:[1-9]\d{0,4})?", host, re.ASCII | re.IGNORECASE)
    assert tcp_hosts("127.0.0.1", 5002, ()).accept(host) is bool(ours)


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "::", "[::]"])
@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("10.1.2.4:5002", True),
        ("10.1.2.4", True),
        ("[fd00::7]:8080", True),
        ("fd00::7", False),
        ("10.1.2.4.example:5002", False),
        ("127.1", False),
        ("evil.example", False),
    ],
)
def test_every_address_is_ours_where_we_listen_everywhere(everywhere, host, ours):
    """On all addresses, a caller that uses any of them is answered; other sites have names, not addresses."""
    assert tcp_hosts(everywhere, 5002, ()).accept(host) is ours


@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/no/such", "/startlistening", "/metrics"])
@pytest.mark.parametrize("host", ["evil.example", "", "localhost.", "127.1", "rebind.example:{port}"])
def test_foreign_host_is_refused_before_routing(service, path, host):
    """A foreign Host gets 421 on every path but health, and nothing is executed."""
    answer = service.ask("GET", path, Host=host.format(port=service.port))
    assert (answer.status, answer.json["status"]) == (421, 421)
    assert service.changes == []


def test_hosts_of_the_unix_socket(service):
    """The unix socket accepts its own names."""
    assert service.ask_unix("GET", "/livez", Host="mqworker").status == 200
    assert service.ask_unix("GET", "/livez", Host="localhost").status == 200
    assert service.ask_unix("GET", "/api/v1/status", Host="evil.example").status == 421


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/api/v1/livez", "/api/v1/readyz"])
@pytest.mark.parametrize(
    "head", ["HTTP/1.1\r\nHost: 10.2.3.4:5002", "HTTP/1.1\r\nHost: mq.svc", "HTTP/1.0", "HTTP/1.1"]
)
def test_a_probe_is_answered_whatever_its_host(service, path, head):
    """Health answers by address, by a name that is not ours, without a Host header and over HTTP/1.0."""
    with socket.create_connection(("127.0.0.1", service.port), 5) as probe:
        probe.sendall(f"GET {path} {head}\r\nConnection: close\r\n\r\n".encode())
        assert probe.makefile("rb").readline().split()[1] == b"200"


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({}, False),
        ({"HTTP_ORIGIN": "http://localhost:5002"}, False),
        ({"HTTP_ORIGIN": "https://localhost:5002"}, False),
        ({"HTTP_ORIGIN": "http://localhost:8080"}, False),
        ({"HTTP_ORIGIN": "http://localhost:3000"}, True),
        ({"HTTP_ORIGIN": "http://evil.example"}, True),
        ({"HTTP_ORIGIN": "null"}, True),
        ({"HTTP_ORIGIN": ""}, True),
        ({"HTTP_ORIGIN": "file://localhost:5002"}, True),
        ({"HTTP_SEC_FETCH_SITE": "cross-site"}, True),
        ({"HTTP_SEC_FETCH_SITE": "same-site"}, True),
        ({"HTTP_SEC_FETCH_SITE": "same-origin"}, False),
        ({"HTTP_SEC_FETCH_SITE": "none"}, False),
        ({"HTTP_SEC_FETCH_SITE": "same-origin", "HTTP_ORIGIN": "http://evil.example"}, True),
    ],
)
def test_other_sites(headers, refused):
    """A browser's request is refused unless it comes from our own page or directly from its user."""
    environ = {HOSTS: tcp_hosts("127.0.0.1", 5002, ()), "HTTP_HOST": "localhost:8080", **headers}
    if refused:
        with pytest.raises(Problem) as caught:
            refuse_foreign(environ)
        assert caught.value.status == 403
    else:
        refuse_foreign(environ)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/startlistening"),
        ("GET", "/stoplistening"),
        ("POST", "/stopworking"),
        ("GET", "/startworking"),
        ("POST", "/api/v1/stages/alpha/stop"),
        ("POST", "/api/v1/stages/alpha/messages"),
        ("PUT", "/api/v1/stages/alpha/consumers"),
        ("PATCH", "/api/v1/stages/alpha/params"),
        ("DELETE", "/api/v1/queues/alpha.in"),
        ("POST", "/api/v1/drain"),
    ],
)
def test_a_foreign_page_changes_nothing(service, method, path):
    """Every changing request marked as coming from another site gets 403, whatever its content type."""
    for mark in ({"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json"):
            body = None if method == "GET" else b'{"count": 0}'
            assert service.ask(method, path, body, Content_Type=kind, **mark).status == 403
    assert (service.changes, service.asked, service.drained) == ([], [], False)


@pytest.mark.parametrize(
    "path",
    [
        "stages/alpha/params/schema",
        "stages/alpha/dlq?fresh=0",
        "stages/alpha/dlq/groups",
        "stages/alpha/dlq/ab12",
        "messages?id=1&look=true",
        "messages/1?look=1",
        "queues",
    ],
)
def test_a_foreign_page_costs_little(service, path):
    """What goes through a queue or has code checked is refused to a page of another site, which could not read it."""
    service.admin = {"dlq_list": {"dead_letters": []}}
    for mark in ({"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
        assert service.ask("GET", f"/api/v1/{path}", **mark).status == 403
    assert (service.asked, service.requests) == ([], [])


def test_simple_requests_are_no_json(service):
    """What an HTML form can send changes nothing: 415."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = service.ask("PUT", "/api/v1/stages/alpha/consumers", b'{"count": 0}', Content_Type=kind)
        assert answer.status == 415
    assert service.changes == []


@pytest.mark.parametrize(
    ("path", "without", "wrong", "right"),
    [
        ("/livez", 200, 200, 200),
        ("/api/v1/livez", 200, 200, 200),
        ("/readyz", 401, 401, 200),
        ("/metrics", 401, 401, 200),
        ("/", 401, 401, 200),
        ("/api/v1/status", 401, 401, 200),
        ("/startlistening", 401, 401, 200),
        ("/no/such", 401, 401, 404),
    ],
)
def test_token(guarded, path, without, wrong, right):
    """With a token configured, everything but /livez requires it, and the unix socket never does."""
    assert guarded.ask("GET", path).status == without
    for bad in ("Bearer nonsense", f"Bearer {TOKEN}x", "Bearer \xff\xfe", "Bearer "):
        assert guarded.ask("GET", path, Authorization=bad).status == wrong
    assert guarded.ask("GET", path, Authorization=f"Basic {TOKEN}").status == without
    assert guarded.ask("GET", path, Authorization=f"Bearer {TOKEN}").status == right
    assert guarded.ask_unix("GET", path).status == right


def test_a_token_is_no_query(guarded):
    """A token in the URL is not accepted."""
    assert guarded.ask("GET", f"/api/v1/status?token={TOKEN}").status == 401


def test_many_wrong_tokens(guarded, caplog):
    """After ten wrong tokens a peer has to wait, but the right one passes; /livez and the unix socket still answer."""
    caplog.set_level("WARNING")
    codes = [guarded.ask("GET", "/api/v1/status", Authorization=f"Bearer {n}").status for n in range(12)]
    assert codes == [401] * 10 + [429] * 2
    late = guarded.ask("GET", "/api/v1/status", Authorization="Bearer 12")
    assert (late.status, late.headers["retry-after"]) == (429, "10")
    assert guarded.ask("GET", "/api/v1/status", Authorization=f"Bearer {TOKEN}").status == 200
    assert guarded.ask("GET", "/livez").status == 200
    assert guarded.ask_unix("GET", "/api/v1/status").status == 200
    assert [record.getMessage() for record in caplog.records] == ["wrong token from 127.0.0.1"] * 10


def test_a_refusal_of_head_has_no_body(guarded):
    """After a refused HEAD the connection remains usable."""
    connection = guarded.connect()
    connection.request("HEAD", "/api/v1/status")
    response = connection.getresponse()
    assert (response.status, response.read()) == (401, b"")
    connection.request("GET", "/livez")
    assert connection.getresponse().read() == b'{"status":"alive"}\n'
    connection.close()


def test_failed_logins_are_forgotten():
    """The bucket of failures empties by one every six seconds, and holds a bounded number of peers."""
    failed = FailedLogins()
    for _ in range(10):
        assert not failed.too_many("a", 100.0)
        failed.failed("a", 100.0)
    assert failed.too_many("a", 100.1)
    assert failed.too_many("a", 105.0)
    assert not failed.too_many("a", 106.0)
    assert not failed.too_many("b", 100.0)
    for number in range(5000):
        failed.failed(str(number), 200.0)
    assert len(failed._peers) == FailedLogins.PEERS


def test_no_answer_holds_the_token(guarded):
    """No answer, good or bad, contains the token."""
    for path in ("/", "/api/v1/status", "/api/v1/openapi.json", "/metrics", "/no/such", "/api/v1/stages/zeta"):
        for token in (TOKEN, "wrong"):
            connection = guarded.connect()
            answer = ask(connection, "GET", path, Authorization=f"Bearer {token}")
            assert TOKEN.encode() not in answer.body
            assert TOKEN not in str(answer.headers)


def test_every_answer_has_the_headers(service):
    """Good, refused and malformed requests are all answered with the security headers, without cookies or CORS."""
    answers = [
        service.ask("GET", "/livez"),
        service.ask("GET", "/no/such"),
        service.ask("GET", "/", Host="evil.example"),
        service.ask("GET", "/livez", X_Large="x" * 40_000),
        service.ask("OPTIONS", "/api/v1/stages/alpha/stop", Origin="http://evil.example"),
    ]
    assert [answer.status for answer in answers] == [200, 404, 421, 431, 200]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["cache-control"] == "no-store"
        assert not {"set-cookie", "server", "access-control-allow-origin"} & set(answer.headers)
