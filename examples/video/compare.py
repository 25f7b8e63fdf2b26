"""Computes the same frames in this one process, one after the other, and compares: `python compare.py frames.jsonl`.

Uses the functions of the stages with their default parameters, without the shared object: here the frames are in order.
Ends with 1 if any track of any frame in `tracks.db` is not the same, or missing.
"""

import json
import sqlite3
import sys
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import frames
import store
import tracks

Found = dict[tuple[str, int], list[dict[str, Any]]]  # the tracks, by camera and frame


def alone(events: Iterable[dict[str, Any]]) -> Found:
    """Return the tracks of all frames, computed here."""
    trackers: defaultdict[str, tracks.Tracker] = defaultdict(tracks.Tracker)
    found = {}
    for event in events:
        body = frames.detect(frames.decode(event).body, frames.Params())
        camera, frame, blobs = body["camera"], body["frame"], body["blobs"].tolist()
        found[camera, frame] = trackers[camera].step(frame, blobs, tracks.Params())
    return found


def stored(file: Path) -> Found:
    """Return the tracks of all frames that the service has stored."""
    with closing(sqlite3.connect(file)) as db:
        return {(camera, frame): json.loads(text) for camera, frame, text in db.execute("SELECT * FROM tracks")}


def main(file: str) -> int:
    """Say how many frames are equal, and name those that are not."""
    with Path(file).open() as lines:
        wanted, there = alone(map(json.loads, lines)), stored(store.FILE)
    wrong = [key for key, found in wanted.items() if there.get(key) != found]
    for camera, frame in wrong:
        print(f"{camera} {frame}: {'other tracks' if (camera, frame) in there else 'not there'}")  # noqa: T201 - a command
    print(f"{len(wanted) - len(wrong)} of {len(wanted)} frames have equal tracks")  # noqa: T201 - a command
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
