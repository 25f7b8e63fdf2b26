"""The page behind a real nginx: under a prefix that it takes away, over TLS that ends there, beside another service."""

import json
import os

import pytest

from tests.http.operator import LittleService
from tests.support import nginx
from tests.support.nginx import PUBLIC, Nginx

pytestmark = [pytest.mark.xdist_group("proxy")]

FOR = "proxy_set_header X-Forwarded-For 203.0.113.7;"
TOKEN = "full-canary-token"
JSON = {"Content_Type": "application/json"}
ORIGIN = f"https://{PUBLIC}"
PAGE = {"X_Mqworker": "page", "Origin": ORIGIN, "Sec_Fetch_Site": "same-origin"}


@pytest.fixture
def two(tmp_path):
    """Two services with the same token below one name, at /mq/ and /mq/other/, and the nginx before them."""
    if nginx.BINARY is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs nginx")
        pytest.skip("nginx is not installed")
    made = []
    for name in ("one", "other"):
        (folder := tmp_path / name).mkdir()
        made.append(LittleService(folder, TOKEN, hosts=(PUBLIC,)))
    one, other = made
    places = {"/mq/": one, "/mq/other/": other}
    server = " ".join(
        f"location {at} {{ proxy_pass http://127.0.0.1:{each.port}/; {FOR} }}" for at, each in places.items()
    )
    with Nginx(server) as proxy:
        yield one, other, proxy
    for each in made:
        each.close()


def answer(proxy: Nginx, method: str, path: str, body: bytes | None = None, **headers: str):
    """Return the status, the headers and the body of an answer over TLS."""
    named = {"Host": PUBLIC} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection = proxy.connect(tls=True)
    try:
        connection.request(method, path, body, named)
        got = connection.getresponse()
        return got.status, {name.lower(): value for name, value in got.getheaders()}, got.read()
    finally:
        connection.close()


def test_a_page_under_a_prefix(two):
    """Redirections stay below the prefix, the cookie is limited to it and to https, and each service has its own."""
    one, other, proxy = two
    for path, target in (("/mq/", "ui/"), ("/mq/ui", "ui/"), ("/mq/other/", "ui/")):
        status, headers, _ = answer(proxy, "GET", path, Accept="text/html")
        assert (status, headers["location"]) == (303, target)
    assert answer(proxy, "GET", "/mq/ui/")[0] == 200

    def log_in(service: LittleService, prefix: str) -> str:
        made = service.ask_unix("POST", "/api/v1/session/tickets", {}).json["ticket"]
        asked = json.dumps({"ticket": made, "path": prefix}).encode()
        status, headers, told = answer(proxy, "POST", f"{prefix}api/v1/session", asked, **JSON, **PAGE)
        assert status == 200, told
        cookie = headers["set-cookie"]
        assert f"; Path={prefix}; " in cookie
        assert cookie.endswith("; Secure")
        return cookie.partition(";")[0]

    first, second = log_in(one, "/mq/"), log_in(other, "/mq/other/")
    both = f"{second}; {first}"  # as a browser sends them below /mq/other/
    change = ("PUT", "/mq/other/api/v1/stages/alpha/listening", b'{"enabled": false}')
    assert answer(proxy, *change, **JSON, **PAGE, Cookie=first)[0] == 401
    assert answer(proxy, *change, **JSON, **PAGE, Cookie=both)[0] == 202
    assert answer(proxy, "GET", "/mq/api/v1/session", **PAGE, Cookie=both)[0] == 200
    for foreign in (
        {"Origin": "https://evil.example"},
        {"Origin": f"http://{PUBLIC}:8080"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        assert answer(proxy, *change, **JSON, **PAGE | foreign, Cookie=both)[0] == 403
    assert (len(one.changes), len(other.changes)) == (0, 1)
    record = other.control.trail.since(0)[-1]
    assert (record.status, record.by[:8], record.forwarded) == (202, "session ", "203.0.113.7")


def test_the_proxys_own_login_is_none_of_ours(two):
    """Where the proxy asks for a password, the browser's Basic credentials come along and do not hide the cookie."""
    one, _, proxy = two
    made = one.ask_unix("POST", "/api/v1/session/tickets", {"role": "read"}).json["ticket"]
    asked = json.dumps({"ticket": made, "path": "/mq/"}).encode()
    basic = {"Authorization": "Basic dXNlcjpwYXNz"}
    cookie = answer(proxy, "POST", "/mq/api/v1/session", asked, **JSON, **PAGE, **basic)[1]["set-cookie"]
    sent = {"Cookie": cookie.partition(";")[0], **PAGE, **basic}
    assert json.loads(answer(proxy, "GET", "/mq/api/v1/session", **sent)[2])["role"] == "read"
