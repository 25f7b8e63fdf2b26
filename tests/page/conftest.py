"""The page in a real browser: chromium, by playwright. A context fails its test on what an operator's must not have.

The browser is a module's: playwright leaves its loop running in the thread, and no test with a loop of its own can run
beside it. So services are asked over HTTP and the command line here, not through clients that need a loop.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
SLOW = 15_000  # ms: no test waits for longer
REPORTS = """
window.reports = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.reports.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
"""
UNREACHABLE = "Failed to load resource: "  # what chromium writes for each answer of 400 and more, and for no answer


def promised(seconds: float) -> float:
    """Return how long what is promised within so many seconds may take: on a busy machine as long as anything."""
    return seconds if os.getloadavg()[0] <= (os.cpu_count() or 1) else SLOW / 1000


class Watched:
    """A context of a browser, with its own cookies and connections; `faults` are those of all its pages."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.context: BrowserContext = browser.new_context(**options)
        self.context.set_default_timeout(SLOW)
        self.context.add_init_script(REPORTS)
        self.faults: list[str] = []
        self.hosts: set[str] = set()
        self.context.on("console", lambda line: self._said(line.type, line.text))
        self.context.on("weberror", lambda error: self.faults.append(f"page error: {error.error}"))
        self.context.on("request", self._asked)

    def open(self, url: str) -> Page:
        """Open a page."""
        page = self.context.new_page()
        self.hosts.add(urlsplit(url).netloc)
        page.goto(url)
        return page

    def close(self) -> None:
        """Fail if a page has done what it must not."""
        for page in self.context.pages:
            self.faults += [f"CSP: {report}" for report in page.evaluate("window.reports")]
        self.context.close()
        assert not self.faults, "\n".join(self.faults)

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not text.startswith(UNREACHABLE):
            self.faults.append(f"console: {text}")

    def _asked(self, request: Request) -> None:
        if urlsplit(request.url).netloc not in self.hosts:
            self.faults.append(f"request to {request.url}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; skipped where there is none, except in CI."""
    if not CHROMIUM.exists():
        if os.environ.get("CI"):
            pytest.fail("CI needs chromium: scripts/setup --system")
        pytest.skip("chromium is not installed: scripts/setup --system")
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    """A context for one test."""
    context = Watched(browser, viewport={"width": 1280, "height": 900})
    yield context
    context.close()
