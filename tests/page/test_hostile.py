"""The page below a prefix behind a real nginx, with hostile texts wherever messages can put them, and for a reader.

A context fails its test for every report of the CSP, for each request to another host and each error (conftest.py).
"""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import Browser, Page, expect

from mqworker.amqp.properties import Headers, Properties
from mqworker.brokers.base import Publication
from tests.page.conftest import Watched
from tests.page.test_service import answered, live
from tests.support import nginx
from tests.support.embedded import DEAD, INPUT, Client, config, curl
from tests.support.nginx import Nginx
from tests.support.ports import free_port
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("page")]

TOKEN, READER = "a-token-of-sixteen-characters", "another-one-for-those-who-look"
JSON = {"Content_Type": "application/json"}
PUT = """
async () => {
  const headers = { "Content-Type": "application/json", "X-Mqworker": "page" };
  const body = '{"enabled": false}';
  return (await fetch("../api/v1/stages/work/listening", { method: "PUT", body, headers })).status;
}
"""
EVIL = "<img src=//evil.example/x onerror=alert(1)></script><svg onload=alert(2)>"
ID = f"id {EVIL}\u202e/../#?%00&=\u2066"
JOBS = f"""\
EVIL = {EVIL!r}


class Evil(Exception):
    pass


Evil.__qualname__ = Evil.__name__ = "Evil" + EVIL


def handle(body):
    raise Evil("javascript:alert(3) " + EVIL + chr(0) + chr(0x202e) + str(body))
"""


class Site:
    """The service, and the address of its page behind nginx."""

    def __init__(self, service: ServiceProcess, proxy: Nginx, port: int) -> None:
        self.service = service
        self.port = port
        self.url = f"http://127.0.0.1:{proxy.port}/mq/ui/"

    def ticket(self, role: str) -> str:
        """Return an address that logs in with this role."""
        status, told = self.service.ask("POST", "/api/v1/session/tickets", {"role": role})
        assert status == 201, told
        return self.url.removesuffix("ui/") + told["path"]


def send(service: ServiceProcess) -> None:
    """Send messages whose id, headers and body are hostile."""
    headers = {f"name {EVIL}"[:120]: EVIL, "n": 2**63 - 1, "null": None, "turned": "\u202eexe.gpj"}
    bodies = [json.dumps({"x": EVIL, "n": 2**63 - 1}).encode(), EVIL.encode(), b"\x00\xff\xfe<script>"]
    with Client(service) as client:
        client.store_all(
            Publication(
                "", INPUT, Properties(message_id=f"{ID}{n}", content_type=kind, headers=Headers(headers)).encode(), body
            )
            for n, (body, kind) in enumerate(zip(bodies, ("application/json", "text/html", EVIL[:60]), strict=True))
        )
        wait_for(lambda: client.ready(DEAD) == len(bodies), 20, "dead letters")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A service below /mq/ with three dead letters."""
    if nginx.BINARY is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs nginx")
        pytest.skip("nginx is not installed")
    port = free_port()
    control = f'port = {port}\ntoken = "{TOKEN}"\nread_token = "{READER}"'
    settings = config("retry = { max_attempts = 1 }", control=control)
    at = f"location /mq/ {{ proxy_pass http://127.0.0.1:{port}/; proxy_set_header Host $http_host; }}"
    with ServiceProcess(settings, {"jobs.py": JOBS}) as service, Nginx(at) as proxy:
        service.write("mqworker.toml", settings)
        (service.folder / "mqworker.toml").chmod(0o600)
        service.start()
        with ThreadPoolExecutor(1) as thread:  # a loop, which playwright's thread has already
            thread.submit(send, service).result(60)
        yield Site(service, proxy, port)


def open_all(page: Page) -> None:
    """Open what is folded in, so that everything is drawn."""
    for details in page.locator("details").all():
        details.evaluate("(node) => (node.open = true)")


def test_hostile_texts_are_only_texts(site, watched):
    """Ids, bodies, headers, error types and texts that are markup, scripts, directions and nulls are shown as they are
    written, in every view, after each filter, below a prefix; nothing of them is executed or fetched."""
    page = watched.open(site.ticket("control"))
    live(page)
    assert page.url == f"{site.url}#/"
    for view in ("#/failures/work", "#/logs", "#/stage/work", "#/stage/work/params", "#/stage/work/chain", "#/audit"):
        page.goto(site.url + view)
        page.wait_for_selector(".panel, .log")
        open_all(page)
    page.goto(f"{site.url}#/failures/work")
    page.get_by_label("Text").fill(EVIL)
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("button", name="Select 3 matching").wait_for()
    links = [page.locator("tbody a[href^='#/letter']").nth(index).get_attribute("href") for index in range(3)]
    for link in links:
        page.goto(f"{site.url}{link}?with={links[0].rpartition('/')[2]}")
        page.get_by_label("Difference").locator("pre").wait_for()
        open_all(page)
        assert page.get_by_label("Headers").get_by_text(EVIL, exact=True).count() == 1
        assert page.get_by_label("Headers").get_by_text("\\u202eexe.gpj", exact=True).count() == 1
        assert page.get_by_label("Headers").get_by_text(str(2**63 - 1), exact=True).count() == 1
        page.get_by_label("Failure").locator("a").click()
        page.get_by_text("Attempt 1: dead").wait_for()
    assert page.locator("main img, main script, main iframe").count() == 0


def test_a_reader_has_no_buttons_and_is_refused(site, browser: Browser):
    """Who may only read sees everything and no control that changes something, and a direct PUT is refused with 403."""
    watched = Watched(browser)
    page = watched.open(site.ticket("read"))
    live(page)
    letters = site.service.ask("GET", "/api/v1/stages/work/dlq")[1]["dead_letters"]
    for view in (
        "",
        "failures/work",
        f"letter/work/{letters[0]['id']}",
        "stage/work",
        "stage/work/params",
        "stage/work/chain",
    ):
        page.goto(f"{site.url}#/{view}")
        page.wait_for_selector(".panel")
        page.wait_for_function("() => document.documentElement.dataset.role === 'read'")
        open_all(page)
        for name in ("Pause", "Restart", "Replay", "Drop", "Change", "Add", "Back to", "Select", "Take", "Edit"):
            assert page.get_by_role("button", name=name).count() == 0, (view, name)
    assert page.evaluate(PUT) == 403
    assert site.service.stage("work")["desired"]["listening"] is True
    watched.close()


def test_each_command_is_in_the_audit(site, watched):
    """What is done in the page stands in the audit: by which session, to what, and how it was answered; also what was
    refused."""
    page = watched.open(site.ticket("control"))
    live(page)
    page.get_by_role("button", name="Pause stage work").click()
    answered(page, "Stage work is paused.")
    page.get_by_role("button", name="Resume stage work").click()
    answered(page, "Stage work takes messages again.")
    page.goto(f"{site.url}#/failures/work")
    page.get_by_role("button", name="Select 3 matching").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export 3").click()
    assert len(download.value.path().read_text().splitlines()) == 3
    page.get_by_role("button", name="Drop 3 …").click()
    page.get_by_role("dialog").get_by_role("button", name="Drop 3").click()
    page.get_by_text("3 dropped, 0 gone").wait_for()
    refused = curl(site.port, "PUT", "/api/v1/stages/work/listening", b"{}", **JSON, Authorization=f"Bearer {READER}")
    assert refused.status == 403
    page.goto(f"{site.url}#/audit")
    expect(page.locator("tbody tr").first).to_be_visible()
    records = site.service.ask("GET", "/api/v1/audit")[1]["records"]
    told = [
        (each["method"], each["path"].rpartition("/")[2], each["status"])
        for each in records
        if each["by"].startswith("session")
    ]
    for wanted in (
        ("PUT", "listening", 202),
        ("PUT", "listening", 202),
        ("POST", "selections", 201),
        ("POST", "drop", 202),
    ):
        assert wanted in told
        told.remove(wanted)
    assert ("read token", 403) in {(each["by"], each["status"]) for each in records}
