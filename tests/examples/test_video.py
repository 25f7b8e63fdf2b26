"""The video example: blobs are found and tracked, and through four stages the tracks are those of one process."""

import base64
import contextlib
import importlib
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from mqworker import Reject
from mqworker.jobs.codecs import encode
from mqworker.testing import SharedObjects, run_job
from tests.support.environment import plain
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

EXAMPLE = Path(__file__).parents[2] / "examples" / "video"
NAMES = ("frames", "tracks", "store", "generate", "compare")
COUNT = 60  # frames of each camera


@pytest.fixture(scope="module")
def example():
    """Import the modules of the example."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        for name in NAMES:
            sys.modules.pop(name, None)
        yield type("Example", (), {name: importlib.import_module(name) for name in NAMES})
        for name in NAMES:
            sys.modules.pop(name, None)


def picture(image_format="PNG", size=(8, 6)):
    """Return a compressed grey picture."""
    file = io.BytesIO()
    Image.new("L", size, 128).save(file, image_format)
    return file.getvalue()


# --- decode and detect


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "BMP"])
def test_a_picture_of_any_format_becomes_an_array(image_format):
    """As base64 in JSON, and as bytes in MessagePack; the header names the camera."""
    image = picture(image_format)
    for codec, there in (("json", base64.b64encode(image).decode()), ("msgpack", image)):
        body, content_type = encode({"camera": "north", "frame": 3, "image": there}, codec)
        made = run_job("frames:decode", body, codec="msgpack", root=EXAMPLE, content_type=content_type)
        assert made.headers == {"camera": "north"}
        assert (made.body["camera"], made.body["frame"], made.body["pixels"].dtype) == ("north", 3, np.uint8)
        assert made.body["pixels"].tolist() == [[128] * 8] * 6


@pytest.mark.parametrize(
    "change",
    [
        {"image": base64.b64encode(picture()[:40]).decode()},
        {"image": base64.b64encode(b"no picture").decode()},
        {"image": "?"},
        {"frame": -1},
        {"camera": None},
    ],
)
def test_what_is_no_picture_is_rejected(example, change):
    """A body that lacks something, or whose picture cannot be decoded, is a dead letter at once."""
    body = {"camera": "north", "frame": 3, "image": base64.b64encode(picture()).decode()}
    with pytest.raises(Reject, match="no frame"):
        example.frames.decode(body | change)


@settings(max_examples=100, deadline=None)
@given(
    mask=st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
        lambda shape: st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
            lambda cells: np.array(cells).reshape(shape)
        )
    )
)
def test_connected_components_are_those_of_scipy(example, mask):
    """Two pixels have the same number if and only if they have the same one there."""
    labels, count = ndimage.label(mask)
    pairs = set(zip(example.frames.components(mask).ravel(), labels.ravel(), strict=True))
    assert len(pairs - {(0, 0)}) == count == len({ours for ours, _ in pairs - {(0, 0)}})


def test_blobs_are_where_the_discs_are(example):
    """A disc by itself has one blob, within a pixel of its centre; there is no blob where no disc is."""
    scene, alone = example.generate.Scene(seed=5), 0
    for number in range(40):
        frame = {"camera": "north", "frame": number, "image": base64.b64encode(scene.picture(number)).decode()}
        blobs = example.frames.detect(example.frames.decode(frame).body, example.frames.Params())["blobs"]
        discs = scene.positions(number)
        apart = np.hypot(*(discs[:, None] - blobs[None, :, :2]).transpose(2, 0, 1))
        assert apart.min(axis=0).max() < 8, "no blob without a disc"
        for disc, near in zip(discs, apart, strict=True):
            others = np.sort(np.hypot(*(discs - disc).T))[1]
            if others > 25 and (disc > 10).all() and (disc < (example.generate.WIDTH - 10, 110)).all():
                alone += 1
                assert [distance < 1 for distance in near].count(True) == 1
    assert alone > 50


def test_a_frame_without_blobs_has_an_empty_array():
    """Nothing to see is a result too: the tracker has to count the frame."""
    body = {"camera": "north", "frame": 0, "pixels": np.full((120, 160), 90, np.uint8)}
    found = run_job("frames:detect", body, codec="msgpack", root=EXAMPLE)
    assert found["blobs"].shape == (0, 3)


# --- track


def test_a_track_keeps_its_id(example):
    """When two paths cross, when it is out of sight for a while, and over a missing frame; not after too long."""
    tracker, params = example.tracks.Tracker(), example.tracks.Params(reach=3, coast=2)

    def ids(frame, *places):
        return [each["id"] for each in tracker.step(frame, [[x, y, 20.0] for x, y in places], params)]

    for frame in range(11):  # two that meet at 10, 10
        assert ids(frame, (2.0 * frame, 10.5), (20.0 - 2 * frame, 9.5)) == [1, 2]
    assert ids(11) == []
    assert ids(13, (26.0, 10.5), (-6.0, 9.5)) == [1, 2], "12 is missing"
    assert ids(16) == []
    assert ids(17, (34.0, 10.5)) == [3]


def test_most_discs_keep_one_id(example):
    """A disc of the generated scene that never touches another has one track from the first frame to the last."""
    found = example.compare.alone(example.generate.frames(COUNT))
    ids = {n: {t["id"] for (camera, _), seen in found.items() if camera == n for t in seen} for n in ("east", "south")}
    assert ids["east"] == {1, 2, 3, 4, 5}
    whole = [
        all(any(t["id"] == number for t in found["south", frame]) for frame in range(COUNT)) for number in ids["south"]
    ]
    assert sum(whole) >= 3


def test_the_stage_has_the_tracks_of_each_camera(example):
    """A message that runs again has the same tracks; a frame that comes again, or after a later one, is refused."""
    shared = SharedObjects({"tracks": "tracks:Tracks"}, EXAMPLE, now=0.0)

    def run(frame, camera="north", message_id=""):
        body = {"camera": camera, "frame": frame, "blobs": np.array([[5.0, 6.0, 20.0]])}
        options = {"codec": "msgpack", "root": EXAMPLE, "shared": shared}
        return run_job("tracks:track", body, message_id=message_id or f"{camera}{frame}", **options)

    there = [{"id": 1, "x": 5.0, "y": 6.0}]
    assert run(0) == {"camera": "north", "frame": 0, "tracks": there} == run(0)
    assert run(2)["tracks"] == there == run(2)["tracks"]
    for late in (1, 2):
        with pytest.raises(Reject, match=f"frame {late} comes again, or after frame 2"):
            run(late, message_id="another")
    shared.now += example.tracks.FORGET
    assert run(0, "east")["tracks"] == there
    shared.tick()
    shared.check_replay()
    assert shared["tracks"].describe() == {"east": {"frame": 0, "tracks": 1}}, (
        "a camera that sends nothing is forgotten"
    )


# --- store, compare, and all of it


def test_a_message_that_comes_twice_is_one_row(example, tmp_path, monkeypatch, capsys):
    """Its row is written again; `compare.py` reads the rows, and names the frames that differ or are missing."""
    monkeypatch.setattr(example.store, "FILE", tmp_path / "tracks.db")
    events = list(example.generate.frames(2))
    (tmp_path / "frames.jsonl").write_text("".join(json.dumps(each) + "\n" for each in events))
    found = example.compare.alone(events)
    for (camera, frame), seen in found.items():
        for _ in range(2):
            run_job(example.store.Store, {"camera": camera, "frame": frame, "tracks": seen})
    assert example.compare.stored(tmp_path / "tracks.db") == found
    assert example.compare.main(tmp_path / "frames.jsonl") == 0
    run_job(example.store.Store, {"camera": "east", "frame": 1, "tracks": []})
    with contextlib.closing(sqlite3.connect(tmp_path / "tracks.db")) as db, db:
        db.execute("DELETE FROM tracks WHERE camera = 'south' AND frame = 0")
    capsys.readouterr()
    assert example.compare.main(tmp_path / "frames.jsonl") == 1
    assert capsys.readouterr().out.splitlines() == [
        *("south 0: not there", "east 1: other tracks", "4 of 6 frames have equal tracks"),
    ]


@pytest.mark.system
def test_the_tracks_are_those_of_one_process(example):
    """Although four processes detect at once, and although all Producers, all Consumers and the process that
    has the tracks are killed on the way: what is stored is equal, to the last digit.
    """
    files = {path.name: path.read_text() for path in EXAMPLE.glob("*.py")}
    config = (EXAMPLE / "mqworker.toml").read_text() + '\n[control]\nport = 0\n[service]\nlog_format = "json"\n'
    lines = "".join(json.dumps(each) + "\n" for each in example.generate.frames(COUNT))
    total = lines.count("\n")
    with ServiceProcess(config, files | {"frames.jsonl": lines}) as service:
        service.start()
        assert service.cli("pause", "--stage", "detect").returncode == 0
        sent = service.cli("send", "--stage", "decode", input=lines.encode())
        assert sent.returncode == 0, sent.stderr
        victims = [pid for kind in ("mqw-producer", "mqw-consumer", "mqw-shared") for pid in service.named(kind)]
        assert len(victims) == 4 + 8 + 1
        assert service.cli("resume", "--stage", "detect", "--no-wait").returncode == 0
        wait_for(lambda: len(example.compare.stored(service.folder / "tracks.db")) > 0, 60, "a frame to be stored")
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):  # it has died with its Producer
                os.kill(pid, signal.SIGKILL)
        assert len(example.compare.stored(service.folder / "tracks.db")) < total

        def whole():
            assert not [event for event in service.events() if event["event"] == "dead"], "a frame came out of order"
            return len(example.compare.stored(service.folder / "tracks.db")) >= total

        wait_for(whole, 120, "all to be stored")
        assert service.cli("dlq", "list").stderr == "0 dead\n"
        command = [sys.executable, "compare.py", "frames.jsonl"]
        compared = subprocess.run(
            command, cwd=service.folder, env=plain(), capture_output=True, text=True, timeout=60, check=False
        )
        assert compared.stdout == f"{total} of {total} frames have equal tracks\n", compared.stderr
        assert compared.returncode == 0
        assert service.stop() == 0
