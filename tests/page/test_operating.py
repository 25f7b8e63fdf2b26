"""What an operator does with failures, messages, parameters and the chain, in a browser, on a real service.

One service for all: stage `work` fails as its messages ask for, stage `forms` has parameters and a chain. Each test
leaves the dead-letter queue empty and the stages running. What has a loop runs in a thread: playwright's own loop is
in this one.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.page.conftest import Watched, promised
from tests.page.test_service import answered, live, press
from tests.support.embedded import DEAD, INPUT, Client, config
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("page")]

JOBS = """\
import time
import types
from typing import Annotated, Literal

import msgspec


class Swarm(msgspec.Struct):
    size: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100


class Params(msgspec.Struct):
    gamma: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.9
    seed: int = 1
    method: Literal["cg", "bfgs"] = "cg"
    swarm: Swarm = msgspec.field(default_factory=Swarm)

    def __post_init__(self):
        if self.seed == 13:
            raise ValueError("seed is unlucky")


def first(n):
    raise ValueError(f"molecule {n} does not converge: residual {n / 7}")


def second(n):
    raise ValueError(f"molecule {n} has no charge")


def handle(body):
    time.sleep(body.get("seconds", 0))
    if body.get("fault") == 3:
        return {}[f"key {body['n']}"]
    if body.get("fault") == 4:
        raise OSError(f"try {body['n']} again")
    if body.get("fault") == 5:  # each in a line of its own
        types.FunctionType(second.__code__.replace(co_firstlineno=1000 + body["n"]), {})(body["n"])
    return {1: first, 2: second}.get(body.get("fault"), lambda n: n)(body["n"])


def form(body, params: Params):
    return body


def last(body):
    return body
"""
FORMS = """
[stages.forms]
input = "forms.in"
jobs = ["jobs:form"]
consumers = 1
params = { seed = 9_223_372_036_854_775_807 }
"""
RETRY = 'retry = { max_attempts = 2, base = 600, final = ["ValueError", "KeyError"] }'
AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
DLQ = "/api/v1/stages/work/dlq"


class Site:
    """The service, the address of its page, and a client of its broker's file."""

    def __init__(self, service: ServiceProcess, threads: ThreadPoolExecutor) -> None:
        self.service = service
        self.url = re.search(r"http://[\d.:]+", service.event("started")["url"])[0] + "/ui/"
        self._threads = threads
        self._sent = 0

    def client(self, work: Callable[[Client], Any]) -> Any:
        """Return what this does with a client, in a thread."""

        def run() -> Any:
            with Client(self.service) as client:
                client.sent = self._sent
                result = work(client)
                self._sent = client.sent
                return result

        return self._threads.submit(run).result(60)

    def send(self, count: int, **body: Any) -> range:
        """Send messages; return their numbers, which are their ids."""
        return self.client(lambda client: client.send(count, **body))

    def ready(self, queue: str) -> int:
        """Return how many messages wait in a queue."""
        return self.client(lambda client: client.ready(queue))

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer of the API, which is no refusal."""
        status, told = self.service.ask(method, f"/api/v1/{path}", body)
        assert status < 300, told
        return told

    def dead(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many dead letters are listed, which takes a look at the queue; return them."""
        found: list[dict[str, Any]] = []

        def so_many() -> bool:
            found[:] = self.ask("GET", "stages/work/dlq?limit=10000")["dead_letters"]
            return len(found) == count

        wait_for(so_many, 20, f"{count} dead letters")
        return found


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The service of all tests here."""
    with ThreadPoolExecutor(1) as threads, ServiceProcess(config(RETRY) + FORMS, {"jobs.py": JOBS}) as service:
        service.start()
        yield Site(service, threads)


@pytest.fixture
def work(site: Site) -> Iterator[Site]:
    """The same, with nothing in the queues of `work`, which listens."""
    yield site
    site.ask("PUT", "stages/work/listening?wait=10", {"enabled": False})
    for queue in (INPUT, DEAD):
        site.ask("POST", f"queues/{queue}/purge")
    site.ask("PUT", "stages/work/listening?wait=10", {"enabled": True})


def failures(watched: Watched, site: Site, query: str = "") -> Page:
    """Open the failures of `work`, with this filter."""
    page = watched.open(f"{site.url}#/failures/work{query}")
    live(page)
    return page


def confirm(page: Page, verb: str) -> str:
    """Press a button of the dialog; return what the dialog says."""
    said = page.inner_text("dialog")
    page.get_by_role("dialog").get_by_role("button", name=verb, exact=True).click()
    return said


@pytest.mark.parametrize(("few", "all_"), [(7, 50), pytest.param(37, 1000, marks=pytest.mark.release)])
def test_exactly_what_was_selected_is_replayed(work, watched, few, all_):
    """Letters that come between the selection and its confirmation are not in it: those that matched are replayed, by
    their ids, though five more match by then; their number stands in the question, its button, and the answer."""
    wanted, others = work.send(few, fault=1), work.send(all_ - few, fault=3)
    work.dead(all_)
    work.ask("PUT", "stages/work/listening?wait=10", {"enabled": False})
    page = failures(watched, work)
    page.get_by_label("Text").fill("converge")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("button", name=f"Select {few} matching").click()
    page.get_by_role("button", name=f"Replay {few} …").wait_for()
    assert page.locator("button.primary:visible").all_inner_texts() == [f"Replay {few} …"], "one next step"
    work.ask("PUT", "stages/work/listening?wait=10", {"enabled": True})
    late = work.send(5, fault=1)
    work.dead(all_ + 5)
    work.ask("PUT", "stages/work/listening?wait=10", {"enabled": False})
    page.get_by_role("button", name=f"Replay {few} …").click()
    assert f"Replay {few} dead letters?" in confirm(page, f"Replay {few}")
    page.get_by_text(f"{few} replayed, 0 gone (by anybody)", exact=True).wait_for()
    assert work.ready(INPUT) == few
    assert {int(each["message_id"]) for each in work.dead(all_ + 5 - few)} == {*others, *late}
    assert wanted.stop == others.start


@pytest.mark.parametrize("size", [30, pytest.param(1000, marks=pytest.mark.release)])
def test_three_faults_are_three_groups(work, watched, size):
    """Failures of three lines whose texts never repeat are three groups with exact counts, live and in the queue; the
    letters of one are replayed alone."""
    for fault, times in ((1, 3), (2, 2), (3, 1)):
        work.send(size * times, fault=fault)
    work.dead(size * 6)
    page = failures(watched, work)
    rows = page.locator("section", has_text="Groups").locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(0).locator("td").nth(1)).to_have_text(f"{size * 3:,}")
    told = {re.match(r"\S+", text)[0]: text for text in rows.all_inner_texts()}
    assert set(told) == {"ValueError", "KeyError"}
    for row, times in zip(rows.all(), (3, 2, 1), strict=True):
        assert row.locator("td").nth(1).inner_text() == f"{size * times:,}"
    work.ask("PUT", "stages/work/listening?wait=10", {"enabled": False})
    page.get_by_role("link", name="jobs.py:28 in second").click()
    page.get_by_role("button", name=f"Select {size * 2:,} matching").click()
    page.get_by_role("button", name=f"Replay {size * 2:,} …").click()
    confirm(page, f"Replay {size * 2:,}")
    page.get_by_text(re.compile(f"^{size * 2:,} replayed, 0 gone")).wait_for()
    assert work.ready(INPUT) == size * 2
    assert {each["place"] for each in work.dead(size * 4)} == {"jobs.py:24 in first", "jobs.py:34 in handle"}


def test_replay_and_drop_by_keyboard(work, watched):
    """Tab, Enter and Space alone tick a letter, replay it, and drop what is left; what was ticked since stays so."""
    letters = work.dead(len(work.send(3, fault=3)))
    work.ask("PUT", "stages/work/listening?wait=10", {"enabled": False})
    page = failures(watched, work)
    page.get_by_role("button", name="Select 3 matching").wait_for()
    first, second, _ = (each["message_id"] for each in letters)
    press(page, f"Dead letter {first}", "Space")
    page.locator("body").evaluate("() => document.activeElement.blur()")
    press(page, "Select the 1 ticked")
    page.get_by_role("button", name="Replay 1 …").wait_for()
    press(page, f"Dead letter {second}", "Space")
    page.locator("body").evaluate("() => document.activeElement.blur()")
    press(page, "Replay 1 …")
    press(page, "Replay 1")
    page.get_by_text("1 replayed, 0 gone").wait_for()
    page.get_by_role("button", name="Select the 1 ticked").wait_for()
    press(page, f"Dead letter {second}", "Space")
    page.locator("body").evaluate("() => document.activeElement.blur()")
    press(page, "Select 2 matching")
    page.get_by_role("button", name="Drop 2 …").wait_for()
    press(page, "Drop 2 …")
    press(page, "Drop 2")
    page.get_by_text("2 dropped, 0 gone").wait_for()
    assert (work.ready(INPUT), work.ready(DEAD)) == (1, 0)


def test_a_letter_is_read_compared_edited_and_replayed(work, watched):
    """A letter shows 64-bit integers of body and headers exactly, its traceback, and the difference to another; the
    edited body is what goes back into the input, and an export has the letter in full."""
    body = '{"n": 9223372036854775807, "fault": 1, "x": 1.10}'
    work.client(lambda client: client.send_raw([body.encode(), b'{"n": 8, "fault": 1}']))
    work.dead(2)
    work.ask("PUT", "stages/work/listening?wait=10", {"enabled": False})
    page = failures(watched, work)
    for name in ("raw-0", "raw-1"):
        page.get_by_label(f"Dead letter {name}").check()
    page.get_by_role("button", name="Compare the two").click()
    difference = page.get_by_label("Difference").locator("pre")
    difference.wait_for()
    assert re.search(r'^-   "n": 9223372036854775807,$', difference.inner_text(), re.MULTILINE)
    assert re.search(r'^\+   "n": 8,$', difference.inner_text(), re.MULTILINE)
    assert "raise ValueError" in page.get_by_label("Traceback").locator("pre").inner_text()
    assert '"x": 1.10' in page.get_by_label("Body as json").inner_text()
    page.get_by_text("Edit and replay").click()
    edited = page.get_by_label("The edited body")
    edited.fill(edited.input_value().replace('"fault": 1', '"fault": 0'))
    page.get_by_role("button", name="Replay edited …").click()
    confirm(page, "Replay 1")
    answered(page, "work: 1 edited letter is replayed.")
    (left,) = work.dead(1)
    assert left["message_id"] == "raw-1"
    (back,) = work.client(lambda client: [each.body for each in _peek(client, INPUT)])
    assert json.loads(back)["fault"] == 0
    assert b"9223372036854775807" in back
    page.get_by_role("button", name="Select the 1 ticked").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export 1").click()
    (line,) = download.value.path().read_text().splitlines()
    assert json.loads(line)["body_text"] == '{"n": 8, "fault": 1}'


def _peek(client: Client, queue: str) -> Any:
    return client._runner.run(client._admin.peek(queue, 10, 20))


def test_a_message_is_found_in_every_state(work, watched):
    """Within a second each, the page says of a message whether it is in hand, settled, waits for its next attempt, or
    is dead, and of an unknown one that it is unknown; it follows what is in hand to its end."""
    (settled,), (dead,), (again,) = work.send(1), work.send(1, fault=1), work.send(1, fault=4)
    work.dead(1)
    (held,) = work.send(1, seconds=4)
    page = watched.open(work.url)
    live(page)

    def told(message_id: object, words: str) -> None:
        begun = time.monotonic()
        page.get_by_label("Find a message by its id").fill(str(message_id))
        page.keyboard.press("Enter")
        page.locator("main").get_by_text(re.compile(words)).first.wait_for()
        assert time.monotonic() - begun < promised(1)

    wait_for(lambda: work.ask("GET", f"messages/{held}")["state"] == "in_hand", 10, "the message to be in hand")
    told(held, "in hand for .* attempt 1")
    told(settled, "settled at .* with a result")
    told(again, "the next attempt is due in")
    told(dead, "dead since .* jobs.py:24 in first")
    told("never-seen", "unknown: it is still in a queue, was never here, or is forgotten")
    with page.expect_response(re.compile(r"never-seen&look=1")) as looked:
        page.get_by_role("button", name="Look through the dead letters").click()
    assert looked.value.status == 200
    page.goto(f"{work.url}#/message/{dead}")
    page.get_by_role("link", name="Its dead letters in work").click()
    page.get_by_role("button", name="Select 1 matching").click()
    page.get_by_role("button", name="Drop 1 …").click()
    confirm(page, "Drop 1")
    page.get_by_text("1 dropped, 0 gone").wait_for()
    told(dead, "dead since")
    page.get_by_role("button", name="Look through the dead letters").click()
    page.locator("main").get_by_text("no longer in the dead-letter queue").wait_for()
    with page.expect_response(re.compile(rf"messages\?id={settled}$")):  # what was shown before is asked for again
        page.goto(f"{work.url}#/message/{settled}")
    page.goto(f"{work.url}#/message/{held}")
    page.locator("main").get_by_text("Attempt 1: done, with a result").wait_for()


@pytest.mark.release
def test_a_forgotten_message_is_said_to_be_forgotten(work, watched):
    """Of a message that was settled before the last 10,000 the page says so within a second."""
    (first, *_, last) = work.send(10_050)
    wait_for(lambda: work.ask("GET", f"messages/{last}")["state"] == "settled", 60, "the last message to be settled")
    page = watched.open(work.url)
    live(page)
    begun = time.monotonic()
    page.get_by_label("Find a message by its id").fill(str(first))
    page.keyboard.press("Enter")
    page.get_by_text(re.compile("unknown: .* is forgotten: settled before that")).wait_for()
    assert time.monotonic() - begun < promised(1)


def test_the_form_sends_what_was_changed_and_refuses_bad_values(site, watched):
    """A value that its kind or the handler refuses is marked at its field and nothing is stored; what is sent is the
    difference alone, and a 64-bit integer stays exact. What is typed while that is checked stays, and over a restart
    too, which is no change of the parameters."""
    page = watched.open(f"{site.url}#/stage/forms/params")
    gamma = page.get_by_label("gamma", exact=True)
    gamma.wait_for()
    assert page.get_by_label("seed").input_value() == "9223372036854775807"
    gamma.fill("0,5")
    expect(gamma).to_have_attribute("aria-invalid", "true")
    expect(page.locator(".field", has=gamma).locator(".problem")).to_have_text("is not a number")
    expect(page.get_by_role("button", name="Correct 1 field")).to_be_disabled()
    assert page.get_by_text("gamma: ").count() == 0
    gamma.fill("1.5")
    page.get_by_role("button", name="Change 1 parameter").click()
    expect(page.locator(".field", has=gamma).locator(".problem")).to_contain_text("1")
    expect(gamma).to_be_focused()
    assert site.service.stage("forms")["desired"]["generation"] == 1
    gamma.fill("")
    seed = page.get_by_label("seed")
    seed.fill("13")
    page.get_by_role("button", name="Change 1 parameter").click()
    expect(page.locator(".field", has=seed).locator(".problem")).to_have_text("seed is unlucky")
    seed.fill(str(2**63 - 1))
    expect(page.get_by_role("button", name="Nothing to change")).to_be_disabled()
    assert page.get_by_text("seed is unlucky").count() == 0
    gamma.fill("0.850")
    page.get_by_label("swarm.size").fill("7")
    page.get_by_text("gamma: default 0.9 → 0.850").wait_for()
    held: list[Route] = []
    page.route("**/params", lambda route: held.append(route) if route.request.method == "PATCH" else route.continue_())
    page.get_by_role("button", name="Change 2 parameters").click()
    page.get_by_label("method").select_option('"bfgs"')
    gamma.fill("0.860")
    wait_for(lambda: held or page.wait_for_timeout(50), 5, "the change to be sent")
    held[0].continue_()
    page.get_by_text("Generation 2", exact=True).wait_for()
    params = site.service.stage("forms")["desired"]["params"]
    assert params == {"seed": 2**63 - 1, "gamma": 0.85, "swarm": {"size": 7}}
    for change in ('method: default "cg" → "bfgs"', "gamma: 0.85 → 0.860"):
        page.get_by_text(change).wait_for()
    expect(gamma).to_be_focused()
    site.ask("POST", "stages/forms/restart?wait=20", {})
    page.get_by_text("Generation 3", exact=True).wait_for()
    expect(gamma).to_have_value("0.860")
    expect(gamma).to_be_focused()
    assert page.get_by_text("meanwhile").count() == 0


def test_two_operators_change_the_same_parameter(site, browser: Browser):
    """The second of two operators sees what was loaded, what is stored by now and what was typed, side by side; nothing
    is overwritten, and what was typed can be sent on top of it."""
    watched = Watched(browser)
    pages = [watched.open(f"{site.url}#/stage/forms/params") for _ in range(2)]
    for page, value in zip(pages, ("0.7", "0.6"), strict=True):
        live(page)
        page.get_by_label("gamma", exact=True).fill(value)
    generation = site.service.stage("forms")["desired"]["generation"]
    held: list[Route] = []  # the second one has sent its change before it can learn of the first one
    change = re.compile("/params$")
    pages[1].route(change, lambda route: held.append(route) if route.request.method == "PATCH" else route.continue_())
    pages[1].get_by_role("button", name="Change 1 parameter").click()
    wait_for(lambda: held or pages[1].wait_for_timeout(50), 5, "the change to be sent")
    pages[0].get_by_role("button", name="Change 1 parameter").click()
    pages[0].get_by_text(f"Generation {generation + 1}", exact=True).wait_for()
    held[0].continue_()
    pages[1].unroute(change)
    row = pages[1].locator("tr", has_text="gamma").first
    row.wait_for()
    assert row.locator("td").all_inner_texts()[2:] == ["0.7", "0.6"]
    last, field = (pages[1].locator(each).bounding_box() for each in ("[role=status] tr >> nth=-1", ".field >> nth=0"))
    assert last["y"] + last["height"] <= field["y"]
    assert site.service.stage("forms")["desired"]["params"]["gamma"] == 0.7
    pages[1].get_by_role("button", name="Change 1 parameter").click()
    wait_for(lambda: site.service.stage("forms")["desired"]["params"]["gamma"] == 0.6, 20, "the change on top")
    watched.close()


def test_the_chain_is_edited_and_taken_back(site, watched):
    """A job is added, moved and switched off in one change, whose progress is told; a job that cannot be loaded is
    refused with its reason; an earlier generation comes back."""
    page = watched.open(f"{site.url}#/stage/forms/chain")
    chain = page.get_by_label("Jobs of the chain")
    expect(chain).to_have_value("form = jobs:form")
    before = site.service.stage("forms")["desired"]["generation"]
    chain.fill("form = jobs:form\njobs:missing")
    page.get_by_role("button", name="Change the chain").click()
    expect(page.locator("#answer")).to_contain_text("missing")
    page.get_by_role("button", name="Reset").click()
    expect(chain).to_have_value("form = jobs:form")
    chain.fill("jobs:last\n# form = jobs:form")
    page.get_by_role("button", name="Change the chain").click()
    page.get_by_text(re.compile(rf"Generation {before + 1} is (stored|committed)")).wait_for()
    wait_for(lambda: site.service.stage("forms")["desired"]["jobs"] == ["jobs:last"], 20, "the change to be committed")
    expect(chain).to_have_value("last = jobs:last\n# form = jobs:form")
    page.get_by_text("Earlier generations").click()
    page.get_by_role("button", name=f"Go back to generation {before}").click()
    confirm(page, f"Go back to generation {before}")
    wait_for(lambda: site.service.stage("forms")["desired"]["jobs"] == ["jobs:form"], 20, "the chain from before")


def test_axe_finds_nothing_and_nothing_scrolls_sideways(work, browser: Browser):
    """In both themes axe finds nothing in these views, and at 360 px none is wider than the screen."""
    work.send(2, fault=1, why="x" * 300)
    letters = work.dead(2)
    views = [
        "#/failures/work",
        f"#/letter/work/{letters[0]['id']}?with={letters[1]['id']}",
        f"#/message/{letters[0]['message_id']}",
    ]
    views += ["#/stage/forms/params", "#/stage/forms/chain"]
    for scheme in ("light", "dark"):
        watched = Watched(browser, viewport={"width": 360, "height": 760}, color_scheme=scheme)
        page = watched.open(work.url)
        page.evaluate(AXE)
        for view in views:
            page.goto(work.url + view)
            page.wait_for_selector("#link[data-state=live]")
            page.wait_for_selector(
                {"params": ".field", "chain": "textarea:not(:placeholder-shown)"}.get(
                    view.rpartition("/")[2], "main h2 + * tr, ol li"
                )
            )
            for details in page.locator("details").all():
                details.evaluate("(node) => (node.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{view} scrolls sideways"
            only = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}
            found = page.evaluate("(options) => axe.run(document, options)", only)["violations"]
            assert not found, f"{view}, {scheme}: {json.dumps(found, indent=1)[:3000]}"
        watched.close()


def test_letters_of_further_groups_are_counted(work, watched):
    """Of more faults than are shown, the page says how many letters the others have. (Last here: each is counted.)"""
    work.send(203, fault=5)
    work.dead(203)
    page = failures(watched, work)
    page.get_by_text("and 3 letters of other faults", exact=True).wait_for()
