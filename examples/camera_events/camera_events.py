"""Repeated camera events: of neighbouring cameras, one event within five minutes passes, and is then looked at.

The rule needs to know what every Consumer has let through, so its one instance lives in a process of its own; what
takes time runs in the Consumers.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import msgspec

from mqworker import Reject

Event = dict[str, Any]


@dataclass
class Params:
    """How long an event keeps its neighbours quiet, in seconds; how much work one event is."""

    interval: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    rounds: Annotated[int, msgspec.Meta(ge=1)] = 20_000


@dataclass
class NeighbourRule:
    """Drops an event if there was one of this camera, or of one beside it, within the interval."""

    shared: ClassVar[bool] = True  # one instance for all Consumers

    heard: dict[int, float] = field(default_factory=dict)  # camera -> time of the last event there or beside it
    newest: float = 0.0  # time of the newest event

    def handle(self, event: Event, params: Params) -> Event | None:
        """Return the event, or None to drop it."""
        try:
            camera, time = int(event["cid"]), float(event["time"])
        except (KeyError, TypeError, ValueError):
            raise Reject("an event has cid, the number of the camera, and time, in seconds") from None
        last = self.heard.get(camera)
        self.newest = max(self.newest, time)
        for near in (camera - 1, camera, camera + 1):
            self.heard[near] = max(time, self.heard.get(near, time))
        return None if last is not None and time - last < params.interval else event

    def tick(self, now: float) -> None:  # noqa: ARG002 - the events have clocks of their own
        """Forget what no event can ask for any more: a day of cameras fits into memory, a year would not."""
        self.heard = {camera: time for camera, time in self.heard.items() if self.newest - time < 3600}

    def describe(self) -> dict[str, Any]:
        """Return what `mqworker shared show` prints."""
        return {"cameras": len(self.heard), "newest": self.newest}


def look(event: Event, params: Params) -> Event:
    """Stand in for a detector: work that takes a while, and needs nothing but the event."""
    found = hashlib.pbkdf2_hmac("sha256", str(event["cid"]).encode(), b"camera", params.rounds)
    return event | {"found": found.hex()[:8]}
