"""Makes the pictures of docs/page.md: a line of three stages at work on the embedded broker, photographed in chromium.

Run by scripts/pictures. Some of the messages fail, so that there is something to find; each picture is taken once what
it is to show is there, never after a fixed time.
"""

import argparse
import json
import re
import threading
from pathlib import Path

from msgspec.structs import replace
from playwright.sync_api import Browser, Page, sync_playwright

from tests.page.conftest import CHROMIUM
from tests.support.embedded import Client
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

FOLDER = Path(__file__).parents[2] / "docs/pictures"
WIDTH, HEIGHT = 1080, 680
SECONDS = 75  # of work before the first picture, so that charts have something to show
RATE = 80  # messages a second, about
LARGEST = 120_000  # bytes of a picture
CONFIG = """\
[service]
name = "molecules"
log_format = "json"
[control]
port = 0
[stages.read]
input = "read.in"
jobs = ["pipeline:read"]
output = { queue = "relax.in" }
consumers = 1
[stages.relax]
input = "relax.in"
jobs = ["pipeline:relax", "pipeline:check"]
output = { queue = "store.in" }
consumers = 2
retry = { max_attempts = 2, base = 1 }
params = { gamma = 0.95, method = "bfgs" }
[stages.store]
input = "store.in"
jobs = ["pipeline:store"]
consumers = 1
"""
PIPELINE = """\
import random
import time
from typing import Annotated, Literal

import msgspec


class Swarm(msgspec.Struct):
    size: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    inertia: float | None = None


class Params(msgspec.Struct):
    gamma: Annotated[float, msgspec.Meta(gt=0, le=1, description="how much of a step is kept")] = 0.9
    seed: int = 1
    method: Literal["bfgs", "cg", "newton"] = "cg"
    swarm: Swarm = msgspec.field(default_factory=Swarm)


def read(body):
    return body


def relax(body, params: Params):
    time.sleep(random.lognormvariate(-5, 0.7))
    if body["n"] % 37 == 5:
        raise ValueError(f"molecule {body['n']} does not converge: residual {random.random():.3f}")
    if body["n"] % 211 == 7:
        raise KeyError(f"charge of {body['n']}")
    return body | {"energy": -random.random()}


def check(body):
    return body


def store(body):
    return None
"""


def feed(service: ServiceProcess, stop: threading.Event) -> None:
    """Send as much as is done, in waves, until told to stop."""
    waves = (40, 90, 140, 110, 60)
    with Client(service) as client:
        wave = 0
        while not stop.wait(1.0):
            numbers = range(client.sent, client.sent + waves[wave // 5 % len(waves)])
            client.store_all(_to_read(json.dumps({"n": n}).encode(), f"mol-{n:06d}") for n in numbers)
            client.sent = numbers.stop
            wave += 1


def _to_read(body: bytes, name: str):
    return replace(Client._message(body, name), routing_key="read.in")


def take(page: Page, url: str, view: str, ready: str, name: str, theme: str) -> None:
    """Take a picture of a view once something of it is there."""
    page.goto(url + view)
    page.wait_for_selector("#link[data-state=live]")
    page.wait_for_selector(ready)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.line.one')].every((line) => line.getAttribute('d').length > 200)"
    )
    path = FOLDER / f"{name}-{theme}.png"
    page.screenshot(path=path)
    assert path.stat().st_size < LARGEST, f"{path} has {path.stat().st_size} bytes"


def photograph(browser: Browser, service: ServiceProcess, url: str) -> None:
    """Take all pictures in both themes."""
    letters = service.ask("GET", "/api/v1/stages/relax/dlq")[1]["dead_letters"]
    first = next(each for each in letters if each["error_type"] == "ValueError")
    views = {
        "overview": ("#/", "tbody tr:nth-child(3)"),
        "stage": ("#/stage/relax", ".consumers tbody tr"),
        "parameters": ("#/stage/relax/params", ".field"),
        "failures": ("#/failures/relax", "section:nth-of-type(2) tbody tr"),
        "message": (f"#/message/{first['message_id']}", "ol li"),
    }
    for theme in ("light", "dark"):
        context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=theme)
        page = context.new_page()
        for name, (view, ready) in views.items():
            take(page, url, view, ready, name, theme)
        context.close()


def main() -> None:
    """Start the service, feed it, and take the pictures."""
    parser = argparse.ArgumentParser(prog="scripts/pictures", description="Makes the pictures of docs/page.md anew.")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of work before the first picture")
    seconds = parser.parse_args().seconds
    FOLDER.mkdir(exist_ok=True)
    stop = threading.Event()
    with ServiceProcess(CONFIG, {"pipeline.py": PIPELINE}) as service:
        service.start()
        url = re.search(r"http://[\d.:]+", service.event("started")["url"])[0] + "/ui/"
        feeder = threading.Thread(target=feed, args=(service, stop))
        feeder.start()
        try:
            wait_for(lambda: _results(service) >= RATE * seconds, 4 * seconds + 60, "results of so many seconds")
            with sync_playwright() as tools:
                photograph(tools.chromium.launch(executable_path=CHROMIUM), service, url)
        finally:
            stop.set()
            feeder.join()


def _results(service: ServiceProcess) -> int:
    return service.stage("relax")["actual"]["counters"].get("result", 0)


if __name__ == "__main__":
    main()
