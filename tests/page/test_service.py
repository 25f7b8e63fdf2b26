"""The page before a real service on the embedded broker: by keyboard alone, in eight tabs, and over a kill."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page

from tests.page.conftest import Watched, promised
from tests.support import embedded
from tests.support.ports import free_port
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("page")]

TOKEN = "a-token-of-sixteen-characters"
FOCUSED = "() => document.activeElement.ariaLabel ?? document.activeElement.textContent"
POINTS = "document.querySelector('.chart .line.one').getAttribute('d').split(/[ML]/).length - 1"
KNOWN = """
import("./store.js").then(({ store }) => [...store.state.stages.work.rings[1].series.in.slice(-40)].join(" "))
"""
JOBS = """\
import time
def handle(body, params):
    if body == "stuck":
        time.sleep(3600)  # line 4
    return body
"""


class Site:
    """A service with its page's address, which holds over restarts."""

    def __init__(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/ui/"
        control = f'port = {port}\ntoken = "{TOKEN}"'
        self.service = ServiceProcess(embedded.config(control=control), {"jobs.py": JOBS})

    def ticket(self) -> str:
        """Return an address that logs in, as `mqworker ui` prints one."""
        status, told = self.service.ask("POST", "/api/v1/session/tickets", {"role": "control"})
        assert status == 201, told
        return self.url.removesuffix("ui/") + told["path"]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A service with one stage, which all tests share; the last one kills it."""
    site = Site()
    with site.service as service:
        service.start()
        yield site


def live(page: Page, deadline: float = 10) -> None:
    """Wait until the page shows what the service does now."""
    page.wait_for_selector("#link[data-state=live]", timeout=deadline * 1000)


def press(page: Page, name: str, key: str = "Enter") -> None:
    """Reach a control by Tab and press it; fails if Tab does not lead there."""
    seen = []
    while page.evaluate(FOCUSED) != name:
        seen.append(page.evaluate(FOCUSED))
        assert len(seen) < 60, f"Tab does not lead to {name!r}: {seen}"
        page.keyboard.press("Tab")
    page.keyboard.press(key)


def answered(page: Page, sentence: str) -> None:
    """Wait for the answer of a command."""
    page.wait_for_function("(wanted) => document.getElementById('answer').textContent === wanted", arg=sentence)


def test_an_address_logs_in_once_and_a_wrong_token_is_told(site, browser):
    """The printed address becomes a cookie and leaves the address bar; used again, it asks for a login, at which
    a wrong token is refused with a sentence and the right one shows what was asked for. An address that is
    pasted into the open page logs in as well, also after somebody has logged out."""
    watched = Watched(browser)
    ticket = site.ticket()
    page = watched.open(ticket)
    live(page)
    assert page.url == f"{site.url}#/"
    assert page.evaluate("document.cookie") == ""
    watched.close()

    other = Watched(browser)
    page = other.open(ticket)
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Log in").press("Enter")
    page.wait_for_function("() => document.getElementById('login-problem').textContent.includes('wrong')")
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    live(page)
    assert page.locator(".login").count() == 0
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Token").wait_for()
    page.goto(f"{site.url}#/logs")
    page.goto(site.ticket())  # of the open page nothing but the fragment changes
    live(page)
    assert page.locator(".login").count() == 0
    assert page.url == f"{site.url}#/logs"
    other.close()


def test_by_keyboard_alone(site, watched):
    """Tab and Enter alone pause and resume a stage, scale it from 2 to 4 and restart it; each answer is told."""
    page = watched.open(site.ticket())
    live(page)
    press(page, "work")
    page.wait_for_selector(".consumers tbody tr:nth-child(2)")
    press(page, "Pause stage work")
    answered(page, "Stage work is paused.")
    assert site.service.stage("work")["desired"]["listening"] is False
    press(page, "Resume stage work")
    answered(page, "Stage work takes messages again.")
    press(page, "One Consumer more for work")
    page.keyboard.press("Enter")
    answered(page, "4 Consumers of work.")
    page.wait_for_selector(".consumers tbody tr:nth-child(4)")
    press(page, "Restart the Consumers of work")
    press(page, "Restart")
    answered(page, "New Consumers of work.")
    wait_for(lambda: site.service.stage("work")["desired"]["generation"] == 2, 20, "the restart to be committed")


def test_filters_of_the_log_are_the_services(site, watched):
    """The log begins with what was logged before; another filter shows what fits of that, and a link can hold it."""
    page = watched.open(site.ticket())
    page.goto(f"{site.url}#/logs")
    page.wait_for_selector(".lines li:nth-child(3)")
    text = page.get_by_label("Text")
    text.fill("running: control at")
    text.press("Enter")
    for _ in range(2):
        wait_for(lambda: page.locator(".lines li").count() == 1, 5, "one line")
        assert "running: control at" in page.inner_text(".lines li")
        page.reload()
    page.goto(f"{site.url}#/stage/%ff%")  # a link that nobody has encoded
    page.wait_for_selector("text=There is no such stage")


def test_a_stuck_handler(site, watched):
    """A message that does not end is shown with its id and a running clock; within 2 s a stack names the user's line,
    and a Consumer that is killed from there, if it still has that message, is replaced, with the reason at its slot."""
    status, told = site.service.ask("POST", "/api/v1/stages/work/messages", b'"stuck"')
    assert status == 202, told
    page = watched.open(site.ticket())
    page.goto(f"{site.url}#/stage/work")
    row = page.locator(".consumers tbody tr", has_text=told["message_id"])
    row.wait_for()
    clocks = {row.locator("td[data-label=For]").inner_text(), wait_for(lambda: _later(row), 5, "the clock to run")}
    assert len(clocks) == 2
    begun = time.monotonic()
    row.get_by_role("button", name="Stack").click()
    page.wait_for_selector("dialog pre")
    assert time.monotonic() - begun < promised(2)
    assert "jobs.py" in page.inner_text("dialog pre")
    assert "line 4" in page.inner_text("dialog pre")
    assert told["message_id"] in page.inner_text("dialog")
    page.keyboard.press("Escape")
    row.get_by_role("button", name="Replace").click()
    seen = next(
        each for each in site.service.stage("work")["actual"]["consumers"] if each["message_id"] == told["message_id"]
    )
    with page.expect_request("**/replace") as asked:
        page.get_by_role("button", name="Kill and replace now").click()
    assert asked.value.post_data_json == {"now": True, "pid": seen["pid"], "seq": seen["seq"]}
    assert seen["seq"] > 0
    page.wait_for_function("() => document.querySelector('.consumers').textContent.includes('an operator replaced it')")
    press(page, "Pause stage work")


def _later(row: Locator) -> str | None:
    return next((text for text in [row.locator("td[data-label=For]").inner_text()] if text >= "0:03"), None)


def test_eight_tabs(site, watched):
    """Of eight tabs four stream and four ask, a fresh one has the history, all follow a pause that is answered within
    a second, one that is closed is replaced, and the Service needs at most 20 MB more."""

    def counted(state: str) -> int:
        return sum(page.locator(f"#link[data-state={state}]").count() for page in pages)

    before = rss(site.service)
    first = watched.open(site.ticket())
    live(first)
    pages = [first, *(watched.open(f"{site.url}#/stage/work") for _ in range(7))]
    wait_for(lambda: (counted("live"), counted("asking")) == (4, 4), 15, "four tabs to stream and four to ask")
    assert pages[-1].evaluate(POINTS) > 3
    sent = site.service.cli("send", "1", "--count", "5000")
    assert sent.returncode == 0, sent.stderr
    begun = time.monotonic()
    assert site.service.ask("PUT", "/api/v1/stages/work/listening?wait=5", {"enabled": False})[0] == 200
    assert time.monotonic() - begun < promised(1)
    wait_for(lambda: all("Paused" in page.inner_text("main") for page in pages), 5, "all tabs to show the pause")
    site.service.ask("PUT", "/api/v1/stages/work/listening", {"enabled": True})
    streaming = next(page for page in pages if page.locator("#link[data-state=live]").count())
    pages.remove(streaming)
    streaming.close()
    wait_for(lambda: counted("live") == 4, 10, "another tab to stream")
    assert rss(site.service) - before < 20_000_000


def rss(service: ServiceProcess) -> int:
    """Return the memory of the Service, which has no children in it."""
    assert service.process is not None
    text = Path(f"/proc/{service.process.pid}/status").read_text()
    return 1000 * int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS")))


def test_a_killed_service(site, browser: Browser):
    """A kill is told within 2 s; 3 s after the service is ready again the page goes on by itself, with the same login,
    what was typed, the points from before, and the time without a service drawn as a gap."""
    watched = Watched(browser)
    page = watched.open(site.ticket())
    page.goto(f"{site.url}#/stage/work")
    live(page)
    wait_for(lambda: page.evaluate(POINTS) > 3, 10, "some points")
    points = page.evaluate(POINTS)
    page.get_by_label("Find a message by its id").fill("half typ")
    site.service.signal(9)
    page.wait_for_selector("#link[data-state=lost]", timeout=promised(2) * 1000)
    site.service.wait()
    site.service.start()
    live(page, promised(3))
    wait_for(lambda: page.locator(".chart rect").count(), 10, f"a gap in {page.evaluate(KNOWN)}")
    assert page.evaluate(POINTS) >= points
    assert page.input_value("#find input") == "half typ"
    assert page.locator(".login").count() == 0
    watched.close()
