"""What of the page needs no browser: its pure modules in node, its size, and the events that tests write."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mqworker.http import feed_events, peers, ui_files
from tests.page import replayed

UI = Path(ui_files.__file__).parent / "ui"
TESTS = sorted((Path(__file__).parent / "js").glob("*.test.js"))
LIMIT = 134_412  # bytes of the whole page, not minified: what it has; the aim is 100,000
NODE = shutil.which("node")
STRUCTS = {"hello": "FeedHello", "history": "FeedHistory", "overview": "FeedOverview"}


@pytest.mark.skipif(NODE is None, reason="node is not installed: scripts/setup --system")
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_pure_modules(path, tmp_path):
    """Each pure module of the page does what its tests in node say."""
    for module in (*UI.glob("*.js"), path):
        shutil.copy(module, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    source_text = () if _browsers_reader() else ("--harmony-json-parse-with-source",)  # node 20 has it behind a flag
    done = subprocess.run(
        [NODE, *source_text, "--test-reporter=spec", "--test", path.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _browsers_reader() -> bool:
    asked = subprocess.run([NODE, "-p", "!!JSON.rawJSON"], capture_output=True, text=True, timeout=20, check=True)
    return asked.stdout.strip() == "true"


def test_the_page_is_small():
    """The whole page, as it is read and written, does not become larger than it is."""
    assert sum(each.stat().st_size for each in UI.iterdir()) <= LIMIT


def test_written_events_are_like_real_ones():
    """What tests write as events of the Feed has every field that a service sends."""
    events: list[tuple[str, Any]] = [
        replayed.hello(9),
        replayed.history(9, "a", 5),
        replayed.overview(9, replayed.summary("a"), replayed.summary("b")),
    ]
    for kind, data in events:
        struct = getattr(feed_events, STRUCTS[kind])
        assert msgspec.to_builtins(msgspec.convert(data, struct)).keys() == data.keys()
    parts = [(replayed.summary("a"), feed_events.FeedStage), (replayed.peer(), peers.Peer)]
    parts.append((replayed.peer()["stages"][0], peers.PeerStage))
    for told, real in parts:
        assert told.keys() == {field.encode_name for field in msgspec.structs.fields(real)}
