"""Routes for sources: what a slow check of their code costs others."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from mqworker.control.views import SourceView
from mqworker.http.places import CALLS
from tests.http.operator import LittleService, ask
from tests.support.waiting import AMPLE, wait_for

TOML = """
[control]
port = 0
[stages.work]
input = "in"
jobs = ["m:f"]
[sources.rows]
job = "m:rows"
into = "work"
"""


class SlowService(LittleService):
    """One whose check of a source's code takes until `done` is set."""

    checking = 0

    def publish(self, **changes):
        desired = self.document.sources["rows"]
        view = SourceView("rows", "work", "generator", desired, "running", "", 0, 1, 0, 0, None)
        super().publish(sources={"rows": view}, **changes)

    async def start_source(self, name, patience):
        if not self.checking:
            self.done = asyncio.Event()
        self.checking += 1
        await asyncio.wait_for(self.done.wait(), AMPLE)
        return self.document.revision


def test_starts_whose_check_takes_long_leave_threads_for_others(tmp_path):
    """Also where nobody asked to wait: as many as may wait are checked at a time, and all else is answered."""
    service = SlowService(tmp_path, toml=TOML)
    try:
        with ThreadPoolExecutor(CALLS) as callers:
            starts = [callers.submit(service.ask, "POST", "/api/v1/sources/rows/start") for _ in range(CALLS)]
            wait_for(lambda: service.checking == CALLS, AMPLE, "the checks to begin")
            try:
                refused = ask(service.connect(AMPLE / 4), "POST", "/api/v1/sources/rows/start")
                assert refused.status == 503
            finally:
                service.loop.call_soon_threadsafe(service.done.set)
            assert [start.result(AMPLE).status for start in starts] == [202] * CALLS
    finally:
        service.close()
