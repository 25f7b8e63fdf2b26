"""How a run of `mqworker map` ends: what is ready is stored, whatever ends it."""

import asyncio
import json
import os

import pytest

from mqworker.exits import Exit
from mqworker.mapping.files import MapFiles
from mqworker.mapping.run import MapResult, MapRun
from mqworker.mapping.work import adapted, of_job


class Nobody:
    """A Watcher that does not look."""

    def event(self, event):
        """See Watcher."""

    def failed(self, line, about):
        """See Watcher."""

    def figures(self, figures):
        """See Watcher."""


@pytest.mark.parametrize("fault", [(Exit.RESTARTS_EXHAUSTED, "no Consumer can be set up"), None])
def test_what_is_ready_is_stored_whatever_ends_the_run(tmp_path, fault):
    """A fault that is not of the disk costs no line that is computed: into a pipe nothing could be resumed."""
    (tmp_path / "in").write_text("1\n2\n3\n")
    stage = adapted(of_job("jobs:double", tmp_path), {}, 1, text=False)
    files = MapFiles(tmp_path / "out", tmp_path / "dead", stage.work, resumable=False)
    fd = os.open(tmp_path / "in", os.O_RDONLY)

    async def ended() -> MapResult:
        run = MapRun(stage, files, fd, Nobody())
        run._window.add(run._reader.read())
        for _ in range(2):
            line = run._window.take()
            run._window.add_result(line, b"%d" % (2 * json.loads(line.body)))
            run._window.settle(line)
        if fault:
            run._fails(*fault)
        return await run._conclude()

    files.claim(resume=False)
    files.open()
    try:
        result = asyncio.run(ended())
    finally:
        os.close(fd)
    assert (tmp_path / "out.part").read_text() == "2\n4\n"
    assert result.state.place.line == 2
    if fault:
        assert (result.code, result.message) == fault
