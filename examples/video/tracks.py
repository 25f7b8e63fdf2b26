"""The stage `track`: from the blobs of frames to tracks, by camera.

A track needs the frames of its camera in order, which the stages see to (`ordered_by` in mqworker.toml). What is known
of a camera is in a shared object, `Tracks`: one for all Consumers, in a process of its own, which survives their kills
and its own.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta

from mqworker import Reject

Blobs = list[list[float]]  # x, y and number of pixels of each

FORGET = 3600.0  # seconds after which a camera that sends nothing is forgotten


@dataclass
class Params:
    """How blobs become tracks."""

    reach: Annotated[float, Meta(gt=0)] = 8.0  # pixels from where a track is expected to a blob that can be it
    coast: Annotated[int, Meta(ge=0)] = 5  # frames for which a track may be out of sight


def track(body: dict[str, Any], tracks: Any) -> dict[str, Any]:
    """Return the tracks of a frame; `tracks` is `[shared.tracks]` of the configuration, a `Tracks`."""
    camera, frame = body["camera"], body["frame"]
    return {"camera": camera, "frame": frame, "tracks": tracks.add(camera, frame, body["blobs"].tolist())}


@dataclass
class Track:
    """One moving thing: where it was seen last, or is expected since; speeds are in pixels per frame."""

    id: int
    x: float
    y: float
    dx: float = 0.0
    dy: float = 0.0
    unseen: int = 0  # frames

    def expect(self, frames: int) -> None:
        """Move on at constant velocity."""
        self.x += self.dx * frames
        self.y += self.dy * frames
        self.unseen += frames

    def see(self, x: float, y: float) -> None:
        """Correct position and velocity by what was seen; the velocity half, because positions are noisy."""
        share = 0.5 / self.unseen
        self.dx += share * (x - self.x)
        self.dy += share * (y - self.y)
        self.x, self.y, self.unseen = x, y, 0


@dataclass
class Tracker:
    """The tracks of one camera. Needs its frames in order; a frame that is missing is a longer step."""

    tracks: list[Track] = field(default_factory=list)
    last: int = -1  # the frame
    ids: int = 0  # given so far

    def step(self, frame: int, blobs: Blobs, params: Params) -> list[dict[str, Any]]:
        """Return the tracks seen in a frame: each blob goes to the nearest track within reach, nearest pairs first."""
        if frame <= self.last:
            raise Reject(f"frame {frame} comes again, or after frame {self.last}")
        for each in self.tracks:
            each.expect(frame - self.last)
        self.last = frame
        pairs = sorted(
            (math.hypot(each.x - x, each.y - y), place, number)
            for place, each in enumerate(self.tracks)
            for number, (x, y, _) in enumerate(blobs)
        )
        free, new = set(range(len(self.tracks))), set(range(len(blobs)))
        for distance, place, number in pairs:
            if distance <= params.reach and place in free and number in new:
                x, y, _ = blobs[number]
                self.tracks[place].see(x, y)
                free.remove(place)
                new.remove(number)
        self.tracks = [each for each in self.tracks if each.unseen <= params.coast]
        for number in sorted(new):
            self.ids += 1
            x, y, _ = blobs[number]
            self.tracks.append(Track(self.ids, x, y))
        return [{"id": each.id, "x": each.x, "y": each.y} for each in self.tracks if not each.unseen]


@dataclass
class Camera:
    """What is known of one camera."""

    tracker: Tracker = field(default_factory=Tracker)
    heard: float = 0.0  # when its last frame came


@dataclass
class Tracks:
    """The shared object; its method is called once for each message, however often the message runs."""

    cameras: dict[str, Camera] = field(default_factory=dict)

    def add(self, camera: str, frame: int, blobs: Blobs, params: Params, now: float) -> list[dict[str, Any]]:
        """Take the blobs of a frame; return the tracks in it."""
        known = self.cameras.setdefault(camera, Camera())
        known.heard = now
        return known.tracker.step(frame, blobs, params)

    def tick(self, now: float) -> None:
        """Forget the cameras that send nothing any more."""
        self.cameras = {name: each for name, each in self.cameras.items() if now - each.heard < FORGET}

    def describe(self) -> dict[str, Any]:
        """Return what `mqworker shared show` prints: the last frame of each camera, and how many tracks go on."""
        return {
            name: {"frame": each.tracker.last, "tracks": len(each.tracker.tracks)}
            for name, each in self.cameras.items()
        }
