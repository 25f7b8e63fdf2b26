"""What other pages can do in a real browser whose user is logged in: Chromium itself decides what it sends and shows.

The attacker's page is on another port of the same host, which counts as the same site: SameSite alone stops nothing
there. Skipped without playwright or chromium, except in CI.
"""

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.operator import LittleService

CHROMIUM = Path("/usr/bin/chromium")
TOKEN = "full-canary-token"
pytestmark = [pytest.mark.system, pytest.mark.xdist_group("page")]

ATTACK = """
async (base) => {
  const api = base + "/api/v1/";
  const body = '{"enabled": false}';
  const json = {"Content-Type": "application/json"}, page = {...json, "X-Mqworker": "page"};
  const told = [];
  const tries = {
    "get": () => fetch(api + "status", {credentials: "include"}),
    "get with our header": () => fetch(api + "status", {credentials: "include", headers: page}),
    "put with our header": () =>
      fetch(api + "stages/alpha/listening", {method: "PUT", credentials: "include", headers: page, body}),
    "post as text": () => fetch(api + "stages/alpha/stop",
      {method: "POST", credentials: "include", mode: "no-cors", headers: {"Content-Type": "text/plain"}, body}),
    "get with an effect": () => fetch(base + "/stoplistening", {credentials: "include", mode: "no-cors"}),
    "beacon": () => navigator.sendBeacon(api + "drain", new Blob([body], {type: "application/json"})),
    "events": () => new Promise((done) => {
      const source = new EventSource(api + "events", {withCredentials: true});
      source.onmessage = source.onerror = source.onopen = (event) => { source.close(); done(event.type); };
    }),
    "picture": () => new Promise((done) => {
      const image = new Image();
      image.onload = image.onerror = (event) => done(event.type);
      image.src = base + "/stoplistening";
    }),
    "script": () => new Promise((done) => {
      const script = document.createElement("script");
      script.onload = script.onerror = (event) => done(event.type);
      script.src = base + "/ui/main.js";
      document.body.append(script);
    }),
  };
  for (const [name, attempt] of Object.entries(tries)) {
    try {
      const answer = await attempt();
      told.push([name, answer instanceof Response ? `${answer.type} ${answer.status}` : String(answer)]);
    } catch (error) {
      told.push([name, error.name]);
    }
  }
  return told;
}
"""
FORMS = """
(base) => {
  const stop = "/api/v1/stages/alpha/stop", four = "/stoplistening";
  for (const [method, path] of [["post", stop], ["post", four], ["get", four]]) {
    const form = document.createElement("form");
    Object.assign(form, {method, action: base + path, target: "_blank", enctype: "text/plain"});
    document.body.append(form);
    form.submit();
  }
}
"""


FRAME = """
(at) => new Promise((done) => {
  const frame = document.createElement("iframe");
  frame.onload = () => done("loaded");  // the browser's own error page too
  frame.src = at;
  document.body.append(frame);
})
"""


class _Empty(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>attack</title><body>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def attacker() -> Iterator[int]:
    """The port of a server of empty pages."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Empty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def chromium():
    """A running browser."""
    if not os.environ.get("CI"):
        pytest.importorskip("playwright.sync_api")
        if not CHROMIUM.exists():
            pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - where it is not installed the tests are skipped

    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def victim(tmp_path, chromium):
    """A service, and a browser whose user is logged in to its page."""
    service = LittleService(tmp_path, TOKEN)
    context = chromium.new_context()
    try:
        made = service.ask_unix("POST", "/api/v1/session/tickets", {}).json
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{service.port}/{made['path']}")
        page.wait_for_function("async () => (await fetch('../api/v1/session')).ok")
        assert made["ticket"] not in page.url
        yield service, context, page
    finally:
        context.close()
        service.close()


def done(service) -> list[tuple[str, str, int]]:
    """Return what was asked for with effects and not refused, after the login."""
    records = service.control.trail.since(0)
    return [
        (each.method, each.path, each.status) for each in records if each.status < 400 and "session" not in each.path
    ]


@pytest.mark.parametrize(
    ("host", "status"), [("127.0.0.1", 403), ("localhost", 401)], ids=["same site, other port", "other site"]
)
def test_another_page_reads_nothing_and_changes_nothing(victim, attacker, host, status):
    """Whatever a page on another port, or another site, has the browser send with our cookie: nothing comes of it.

    From another port the cookie comes along, and is refused; from another site the browser keeps it.
    """
    service, context, own = victim
    base = f"http://127.0.0.1:{service.port}"
    evil = context.new_page()
    evil.goto(f"http://{host}:{attacker}/")
    told = dict(evil.evaluate(ATTACK, base))
    assert told.pop("beacon") == "true"  # sent, and nobody hears how it was answered
    assert (told.pop("events"), told.pop("picture"), told.pop("script")) == ("error", "error", "error")
    assert (set(told.values()), len(told)) == ({"TypeError"}, 5)  # nothing is read, not even that there is an answer
    opened: list = []
    context.on("page", lambda page: opened.append(page))  # noqa: PLW0108 - playwright cannot take a built-in method
    evil.evaluate(FORMS, base)
    for _ in range(100):
        if len(opened) == 3:
            break
        evil.wait_for_timeout(50)
    assert len(opened) == 3
    for page in opened:
        page.wait_for_load_state()
        assert f'"status":{status},' in page.content()
    assert (done(service), service.changes, service.drained) == ([], [], False)
    change = """async () => (await fetch("../api/v1/stages/alpha/listening", {method: "PUT",
      headers: {"X-Mqworker": "page", "Content-Type": "application/json"}, body: '{"enabled": false}'})).status"""
    assert own.evaluate(change) == 202
    assert len(service.changes) == 1


def test_the_page_is_in_nobodys_frame(victim, attacker):
    """A page that puts ours into a frame shows an error of the browser, and gets no handle of it by opening it."""
    service, context, _ = victim
    evil = context.new_page()
    evil.goto(f"http://127.0.0.1:{attacker}/")
    address = f"http://127.0.0.1:{service.port}/ui/"
    evil.evaluate(FRAME, address)
    assert all(not frame.url.startswith(address) for frame in evil.frames)
    with context.expect_page() as opened:
        evil.evaluate("(at) => { window.opened = window.open(at); }", address)
    opened.value.wait_for_load_state()
    assert evil.evaluate("window.opened.closed") is True  # as Cross-Origin-Opener-Policy has it
