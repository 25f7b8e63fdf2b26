"""The views in a browser, with a Feed that the test writes: accessible, narrow, quick, safe from what they show."""

import json
import os
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest
from playwright.sync_api import CDPSession, Page

from tests.page import replayed
from tests.page.conftest import Watched, promised
from tests.page.replayed import Event, Replayed

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("page")]

NAMES = ["intake", "energy", "store"]
EVIL = "<img src=//evil.example/x onerror=alert(1)>\u202e\u0000 javascript:alert(1)"
VIEWS = {"overview": "#/", "stage": "#/stage/energy", "logs": "#/logs", "audit": "#/audit"}
AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
UPDATES = """
async (times) => {
  const { store } = await import("./store.js");
  for (let n = 0; n < times; n++) {
    for (const [type, data] of window.events[n % window.events.length]) store.dispatch({ type, data });
    await new Promise(requestAnimationFrame);
  }
}
"""
TIMES = 40
TOLD = """
() => /^No answer for 0:0.* · as of /.test(document.getElementById("link").textContent) &&
  document.querySelectorAll(".consumers tbody tr").length === 6 &&
  ![...document.querySelectorAll("main .command")].some(
    (command) => command.checkVisibility({ visibilityProperty: true }))
"""
TWICE = """
() => {
  const number = document.querySelector(".scale b");
  number.nextSibling.click();
  number.nextSibling.click();
  return number.textContent;
}
"""
HIDE = """
(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}
"""


def source(name: str, **changes: Any) -> dict[str, Any]:
    """A source in the overview."""
    actual = {"rate": 140.0, "position": '{"line": 20311}', "due": None}
    facts = {"into": "intake", "kind": "schedule", "running": True, "state": "running", "problem": "", "items": 120_034}
    return {"name": name} | facts | {"actual": actual} | changes


def shared(name: str) -> dict[str, Any]:
    """A shared object in the overview."""
    status = {"counts": {"made": 120_000}, "mean_seconds": 0.00042, "journal_bytes": 12_400_000, "described": {"n": 31}}
    return {"name": name, "state": "serving", "problem": "", "status": status | {"describe_problem": ""}}


def log_line(number: int, **changes: Any) -> list[Any]:
    """A line of the log."""
    event = {"time": "2026-11-28T00:12:01.123Z", "level": "error", "event": "retry", "msg": "a message failed"}
    return [
        number,
        event | {"process": "energy.1", "message_id": f"m-{number}", "traceback": "ValueError: 3"} | changes,
    ]


def record(number: int, **changes: Any) -> dict[str, Any]:
    """A record of the audit."""
    by = {
        "n": number,
        "time": 1.0,
        "by": "session 3f9a",
        "from": "10.0.0.7",
        "stage": "energy",
        "path": "/api/v1/stages/energy/params",
        "what": "Change parameters",
    }
    change = {"stage": "energy", "field": "params.gamma", "old": 0.9, "new": 0.95}
    return (
        by | {"asked": '{"gamma": 0.95}', "changes": [change], "status": 422, "answer": "gamma is above 0.94"} | changes
    )


def written(n: int, text: str = "", consumers: int = 6) -> list[Event]:
    """All events of a second, with `text` in everything that others have written."""
    why = {"code": "paused", "level": "warning", "sentence": f"Paused by {text or 'anybody'}", "since": None}
    stages = [replayed.summary(name, why=why) for name in NAMES]
    others = [
        replayed.peer(service=f"plant-8{text}", more=3),
        replayed.peer(url="http://plant-9:5002", service="", state="", reached=None, as_of=None, stages=[]),
        replayed.peer(url="http://a:1", service="", state="", reached=False, problem="it is away", stages=[]),
    ]
    stage = replayed.stage(n, "energy", consumers)
    stage[1]["actual"]["consumers"][-1] |= {"leaving": True}
    stage[1]["actual"]["consumers"][2] |= {"generation": 5}
    events = [
        replayed.overview(n, *stages, sources=[source(f"meters{text}")], shared=[shared(f"tariffs{text}")]),
        stage,
        ("peers", {"peers": others}),
    ]
    if n == 2000:
        events += [replayed.history(n, "energy"), *(replayed.history(n, name, 60) for name in NAMES)]
        events.append(("logs", {"lines": [log_line(1, msg=f"failed: {text}", process=f"p{text}")], "gap": 37}))
        events.append(("audit", {"records": [record(1, answer=text, asked=text)]}))
    return events


@pytest.fixture(scope="module")
def feed() -> Iterator[Replayed]:
    """A Feed with something in every view."""
    with Replayed(written, {"GET audit": {"records": []}}) as replay:
        yield replay


def show(page: Page, url: str, view: str) -> None:
    """Go to a view, and wait until it shows what came."""
    page.goto(url + VIEWS[view])
    page.wait_for_selector("#link[data-state=live]")
    page.wait_for_selector({"logs": ".lines .error", "stage": ".consumers tbody tr"}.get(view, "tbody tr"))


def test_axe_finds_nothing_and_nothing_scrolls_sideways(browser, feed):
    """In each view and both themes axe finds nothing, at 360 px nothing is wider than the screen, and nothing moves."""
    for scheme in ("light", "dark"):
        watched = Watched(browser, viewport={"width": 360, "height": 760}, color_scheme=scheme)
        page = watched.open(feed.url)
        for view in VIEWS:
            show(page, feed.url, view)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{view} scrolls sideways"
            assert page.evaluate("document.getAnimations().length") == 0
            page.evaluate(AXE)
            only = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}
            found = page.evaluate("(options) => axe.run(document, options)", only)["violations"]
            assert not found, f"{view}, {scheme}: {json.dumps(found, indent=1)[:4000]}"
        watched.close()


def test_six_hours(watched):
    """Six hours are asked for when they are wanted, and drawn in the place of the 15 minutes."""
    past = {
        "boot": replayed.BOOT,
        "every": 15,
        "from": 0,
        "until": 2000.0,
        "series": {"in": [float(n) for n in range(130)]},
    }
    with Replayed(written, {"GET stages/energy/history": past}) as replay:
        page = watched.open(replay.url)
        show(page, replay.url, "stage")
        page.get_by_role("button", name="6 hours").click()
        page.wait_for_function(
            "() => document.querySelector('.chart').ariaLabel.startsWith('Messages a second: in 129,')"
        )
        page.get_by_role("button", name="15 minutes").click()
        page.wait_for_function("() => !document.querySelector('.chart').ariaLabel.includes('in 129,')")


def test_a_refused_change_shows_the_number_that_is_true(watched, feed):
    """Two quick presses on + go on from each other, one request at a time; when the service refuses the first, the
    number that is wanted there stands again, and nothing else is sent."""
    page = watched.open(feed.url)
    show(page, feed.url, "stage")
    page.get_by_role("button", name="Restart the Consumers").click()
    page.get_by_role("dialog").get_by_role("button", name="Restart").click()
    page.locator("main .error.said").filter(has_text="no such path").wait_for()  # a refusal stays in the stage's head
    number = page.locator(".scale b")
    assert number.inner_text() == "6"
    assert page.evaluate(TWICE) == "8"
    page.wait_for_function("() => document.querySelector('#answer').textContent.startsWith('Not done')")
    assert number.inner_text() == "6"
    sent = [json.loads(body)["count"] for asked, body in feed.asked if asked == "PUT stages/energy/consumers"]
    assert sent == [7]


def test_which_consumers_leave_and_which_lag_behind(watched, feed):
    """A Consumer that leaves, or has not the newest generation, is told so in its row; beside the generation it is
    named, and it is not counted."""
    page = watched.open(feed.url)
    show(page, feed.url, "stage")
    states = page.locator(".consumers tbody .state").all_inner_texts()
    assert states == ["idle", "busy", "busy, generation 5", "busy", "idle", "busy, leaving"]
    assert page.inner_text(".figures div:last-child dd") == "6, not yet in Consumer 2 (5)"
    assert page.inner_text("section[aria-label=Consumers] h2") == "5 Consumers, 6 wanted, 1 leaving"


def test_failures_are_a_tab_of_the_stage(watched, feed):
    """The failures stand below the same head as the other tabs: controls, reason, and the way back."""
    page = watched.open(feed.url)
    show(page, feed.url, "stage")
    page.get_by_role("link", name="Failures (12)").click()
    page.get_by_role("search", name="Filter of the dead letters").wait_for()
    assert page.inner_text("h1") == "energy"
    assert page.get_by_role("button", name="Pause stage energy").is_visible()
    assert page.inner_text(".tabs [aria-current]") == "Failures (12)"
    page.get_by_role("link", name="Now").click()
    page.wait_for_selector(".consumers")


def test_other_services_say_whether_they_are_reached(watched, feed):
    """The overview names other services by their names, or by their addresses as long as they have not answered."""
    page = watched.open(feed.url)
    show(page, feed.url, "overview")
    rows = page.get_by_label("Other services").locator("tbody tr")
    told = [row.locator("td").all_inner_texts() for row in rows.all()]
    assert [each[0] for each in told] == ["plant-8", "plant-8", "http://plant-9:5002", "http://a:1"]
    assert [each[1] for each in told] == ["running", "running", "not asked yet", "not reached: it is away"]
    assert [each[3] for each in told] == ["results", "3 more", "", ""]


def test_a_service_that_hangs_is_not_called_live(watched):
    """While its main thread does not answer, the page says for how long, and that what it shows is from before."""

    def hung(n: int) -> list[Event]:
        kind, told = replayed.overview(n, replayed.summary("energy"))
        return [(kind, told | {"service": told["service"] | {"stale": 75.0}})]

    with Replayed(hung) as replay:
        page = watched.open(replay.url)
        page.wait_for_selector("#link[data-state=hangs]")
        assert page.inner_text("#link") == "The service hangs: what is shown is 1:15 old"
        assert page.locator("main .command:visible").count() == 0
        assert "The service hangs: what stands below is as it was 1 min 15 s ago" in page.inner_text("main")


def test_what_others_wrote_is_only_text(watched):
    """Names, sentences, log lines and answers with markup make no element, no request, no report, and hide nothing."""
    with Replayed(lambda n: written(n, EVIL), {"GET audit": {"records": []}}) as replay:
        page = watched.open(replay.url)
        for view in VIEWS:
            show(page, replay.url, view)
            assert page.locator("img, script:not([src='main.js']), iframe").count() == 0
            assert "\\u202e\\u0000 javascript:alert(1)" in page.inner_text("main") or view == "stage"
            assert "\u202e" not in page.content()


def test_a_reader_has_no_buttons_that_change_anything(watched):
    """With the read-only role no control of a command is shown, and the page says so, and who one is."""

    def read(n: int) -> list[Event]:
        return [replayed.hello(n, "read"), *written(n)]

    session = {"role": "read", "by": "session 3f9a", "login": True, "instance": "r"}
    with Replayed(read, {"GET session": session}) as replay:
        page = watched.open(replay.url)
        for view in ("overview", "stage"):
            show(page, replay.url, view)
            assert page.locator("main button:visible").all_inner_texts() in ([], ["15 minutes", "6 hours"])
            assert page.inner_text("#session") == "Read only · session 3f9a"


def test_a_silent_stream_is_noticed(watched, feed):
    """A connection on which nothing comes any more is told within two seconds; what was shown stays, without the
    controls, and says from when it is."""
    with Replayed(written) as replay:
        page = watched.open(replay.url)
        show(page, replay.url, "stage")
        replay.pause = 60
        # All of it at one look: the page asks again soon. The tick that was on its way counts too.
        page.wait_for_function(TOLD, timeout=1000 + promised(2) * 1000)


def test_without_a_place_for_a_stream_the_page_asks(watched):
    """A page that is refused a stream shows the same by asking, says so, and streams as soon as there is a place."""
    with Replayed(written) as replay:
        replay.full = True
        page = watched.open(f"{replay.url}#/stage/energy")
        page.wait_for_selector("#link[data-state=asking]")
        page.wait_for_selector(".consumers tbody tr")
        assert page.inner_text("#link") == "Every 2 s: all streams of the service are taken"
        replay.full = False
        page.wait_for_selector("#link[data-state=live]")


def test_a_hidden_page_asks_nothing(watched):
    """A page that nobody sees ends its stream at once, and goes on when it is seen again."""
    with Replayed(written) as replay:
        page = watched.open(replay.url)
        show(page, replay.url, "overview")
        with page.expect_event("requestfailed", lambda request: "/feed?" in request.url):
            page.evaluate(HIDE, True)
        with page.expect_response(lambda answer: "after=" in answer.url):
            page.evaluate(HIDE, False)


def test_the_page_is_quick(watched):
    """The first paint comes within 150 ms, and an update of 64 Consumers and four charts takes at most 10 ms of
    processor time in scripts, styles and layout. Both are told, and what painting adds."""
    with Replayed(lambda n: written(n, consumers=64)) as replay:
        page = watched.open(replay.url)
        show(page, replay.url, "stage")
        tools = watched.context.new_cdp_session(page)
        tools.send("Performance.enable", {"timeDomain": "threadTicks"})  # not the time that others of the machine take
        page.evaluate("(events) => { window.events = events }", [written(2100 + n, consumers=64) for n in range(20)])
        page.evaluate(UPDATES, TIMES)
        before = spent(tools)
        page.evaluate(UPDATES, TIMES)
        took, all_in_all = ((now - then) / TIMES for now, then in zip(spent(tools), before, strict=True))
        painted = []
        for _ in range(5):
            page.reload()
            show(page, replay.url, "stage")
            painted.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        told = f"first paint {min(painted):.0f} ms, update {took:.1f} ms, {all_in_all:.1f} ms with painting"
        print(f"{told}; load {os.getloadavg()[0]:.1f}")
        assert min(painted) <= 150
        assert took <= 10


def spent(tools: CDPSession) -> tuple[float, float]:
    """Return the milliseconds of the page's main thread: in scripts, styles and layout, and in all."""
    found = {each["name"]: 1000 * each["value"] for each in tools.send("Performance.getMetrics")["metrics"]}
    return sum(found[f"{name}Duration"] for name in ("Script", "RecalcStyle", "Layout")), found["TaskDuration"]
