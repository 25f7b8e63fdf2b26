"""The page's files: anybody gets them, as they are in the package, and nothing else; with headers of their own."""

import http.client
from pathlib import Path

import pytest

from mqworker.http import ui_files
from mqworker.http.access import HEADERS
from mqworker.http.ui_files import POLICY, TYPES
from tests.http.operator import LittleService

FOLDER = Path(ui_files.__file__).parent / "ui"
NAMES = sorted(path.name for path in FOLDER.iterdir() if path.suffix[1:] in TYPES)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    little = LittleService(tmp_path_factory.mktemp("files"), "full-canary-token")
    yield little
    little.close()


@pytest.mark.parametrize("name", ["", *(name for name in NAMES if name != "index.html")])
def test_every_file_is_served_to_anybody(guarded, name):
    """Without a token, each file is answered as it is in the folder, with its type; its ETag saves the next answer."""
    answer = guarded.ask("GET", f"/ui/{name}")
    expected = FOLDER / (name or "index.html")
    assert (answer.status, answer.body) == (200, expected.read_bytes())
    assert answer.headers["content-type"] == TYPES[expected.suffix[1:]]
    again = guarded.ask("GET", f"/ui/{name}", If_None_Match=answer.headers["etag"])
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", answer.headers["etag"])
    assert again.headers["content-security-policy"] == POLICY
    head = guarded.ask("HEAD", f"/ui/{name}")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(answer.body)))


def test_the_page_has_one_policy(guarded):
    """The page's answers have its own policy alone, because a browser intersects several; all others have ours."""
    for path, own in (("/ui/", True), ("/ui/none", False), ("/api/v1/session", False)):
        connection = guarded.connect()
        connection.request("GET", path)
        headers = connection.getresponse().headers
        connection.close()
        policies, kept = headers.get_all("Content-Security-Policy"), headers.get_all("Cache-Control")
        assert policies == [POLICY if own else dict(HEADERS)["Content-Security-Policy"]]
        assert kept == ["no-cache" if own else "no-store"]
        assert headers.get_all("Cross-Origin-Opener-Policy") == (["same-origin"] if own else None)
        for name in ("X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Cross-Origin-Resource-Policy"):
            assert headers.get_all(name) == [dict(HEADERS)[name]]


@pytest.mark.parametrize(
    "path",
    [
        "/ui/../login.py",
        "/ui/%2e%2e/login.py",
        "/ui/..%2flogin.py",
        "/ui/%2e%2e%2flogin.py",
        "/ui/..%5clogin.py",
        "/ui//etc/passwd",
        "/ui/%2fetc/passwd",
        "/ui/./index.html",
        "/ui/index.html/",
        "/ui/index.html%00",
        "/ui/.",
        "/ui/..",
        "/ui/__init__.py",
        "/ui/INDEX.HTML",
        "/ui/%ff",
        "/ui/..;/api/v1/status",
        "/ui/../api/v1/status",
        "/ui/%2e%2e/api/v1/status",
        "/ui/..%2fapi%2fv1%2fstatus",
        "//ui/../api/v1/status",
        "/ui\\..\\api\\v1\\status",
        "/uix",
    ],
)
def test_no_path_leads_out_of_the_folder(guarded, path):
    """Whatever stands behind /ui/, a caller without a token gets a file of the page, or 404; never anything else."""
    answer = guarded.ask("GET", path)
    assert answer.status in (401, 404)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_the_files_are_read_only(guarded, method):
    """No method changes anything below /ui/."""
    assert guarded.ask(method, "/ui/index.html", {}).status == 405


def test_a_browser_is_led_to_the_page(guarded, service):
    """A browser comes to the page's one address from others, by a relative path; whoever wants JSON gets the links."""
    accept = "text/html,application/xhtml+xml,*/*;q=0.8"
    for path, headers, to in (("/", {"Accept": accept}, "ui/"), ("/ui", {}, "ui/"), ("/ui/index.html", {}, "./")):
        answer = guarded.ask("GET", path, **headers)
        assert (answer.status, answer.headers["location"], answer.body) == (303, to, b"")
    assert guarded.ask("GET", "/").status == 401
    assert service.ask("GET", "/").json["status"] == "/api/v1/status"


def test_the_host_is_checked_for_the_page_too(guarded):
    """A name that leads to us and is not ours gets neither the page nor a redirection."""
    for path in ("/", "/ui", "/ui/", "/ui/index.html"):
        assert guarded.ask("GET", path, Host="rebind.example", Accept="text/html").status == 421
    with pytest.raises((http.client.HTTPException, ValueError)):
        guarded.ask("GET", "/ui/ x\r\nHost: y")
