"""What holds a stage back, and when it will be done, from its desired state and its Producer's report.

Pure; used by whoever shows a stage. A forecast supposes that everything goes on as in the last half minute.
"""

from collections.abc import Iterable, Mapping

import msgspec

from mqworker.control.views import StageView
from mqworker.ipc.stage_status import StageStatus

CONSUMERS, NOTHING, RETRIES = "consumers", "nothing", "retries"
STANDBY = "standby"  # another service has the messages of an ordered stage
ORDER = "order"  # messages of an ordered stage wait for one that makes no progress, or for others of their key
TREND = 30.0  # seconds of work that wait before they are said to grow: less may be a burst
SATURATED = 0.8  # utilisation from which on the Consumers hold back what waits
_REASONS = {  # other names for a Producer's reasons; no: there is none
    "bytes": "max_held_bytes",
    "output": "max_backlog",
    "unplaced": "output",
}


class Outlook(msgspec.Struct, frozen=True):
    """What is to be expected of a stage."""

    unfinished: int | None  # messages ready in the input queue, or taken and not settled; None: not known
    seconds_left: float | None  # until all of them are settled, if it goes on like this; None: never, or not known
    growing: bool  # they become more and more
    held_back_by: str


def outlook(view: StageView, *, paused: bool) -> Outlook:
    """Return what is to be expected of a stage; `paused`: the whole service is."""
    status, held_back_by = view.actual, _held_back_by(view, paused=paused)
    if status is None or (unfinished := _unfinished(status)) is None:
        return Outlook(None, None, False, held_back_by)
    if held_back_by not in (CONSUMERS, NOTHING) or not status.capacity:
        return Outlook(unfinished, None if unfinished or held_back_by != NOTHING else 0.0, False, held_back_by)
    left = status.capacity - (status.arrival_rate or 0.0)
    work = _work(status, unfinished)
    never = left <= 0 and work > _ready(status)  # as long as so many arrive
    rate = left if left > 0 else status.capacity
    seconds = None if never else _seconds(work, rate, status.service_time) if unfinished else 0.0
    return Outlook(unfinished, seconds, never and work > TREND * status.capacity, held_back_by)


def bottleneck(views: Iterable[StageView], outlooks: Mapping[str, Outlook]) -> str | None:
    """Return which of these stages holds the others back most: of those whose Consumers do, the most utilised one."""
    saturated = {
        view.name: view.actual.utilisation or 0.0
        for view in views
        if view.actual is not None and outlooks[view.name].held_back_by == CONSUMERS
    }
    return max(saturated, key=saturated.__getitem__, default=None)


def _seconds(work: int, rate: float, service_time: float | None) -> float:
    """Return the time until these are settled; the last of them takes as long as a message takes."""
    return round(max(work / rate, service_time or 0.0), 3)


def _unfinished(status: StageStatus) -> int | None:
    if status.backlog is None:
        return None
    return status.backlog + status.held + status.dispatched + status.computed + status.settling


def _work(status: StageStatus, unfinished: int) -> int:
    """Return how many of the unfinished messages are work for Consumers: not those that an order keeps from them."""
    order = status.order
    locked = order.locked if order is not None and order.blocked is not None else 0
    return unfinished - status.computed - locked


def _ready(status: StageStatus) -> int:
    """Return how many Consumers are set up."""
    return sum(consumer.state in ("idle", "busy") for consumer in status.consumers)


def _held_back_by(view: StageView, *, paused: bool) -> str:  # noqa: C901, PLR0911 - one return a reason, the first that applies
    desired, status = view.desired, view.actual
    if not desired.running:
        return "stopped"
    if status is None or status.crash_loop:
        return "crash loop" if status is not None else view.state
    if paused or not desired.listening:
        return "paused"
    if not desired.working or not desired.consumers:
        return "no consumers"
    if not status.link.connected:
        return "broker"
    if status.link.blocked:
        return "blocked"
    if not _ready(status):
        return "starting"
    if status.hold_back != "no":
        return _REASONS.get(status.hold_back, status.hold_back)
    if status.link.waits:
        return STANDBY
    if status.problem or not status.link.consuming:
        return "problem" if status.problem else "starting"
    return _by_its_work(status)


def _by_its_work(status: StageStatus) -> str:
    """Return what holds a stage back where messages come, and Consumers are there for them."""
    unfinished, order = _unfinished(status) or 0, status.order
    if order is not None and order.stuck:
        return ORDER
    waits = _work(status, unfinished) > _ready(status)
    if waits and (status.utilisation or 0.0) >= SATURATED:
        return CONSUMERS
    if order is not None and order.blocked is not None:
        return ORDER
    if order is not None and 0 < order.delayed == unfinished:
        return RETRIES
    idle = status.held_up_by if waits else ""  # between two pauses, or with one hot key
    return _REASONS.get(idle, idle) or NOTHING
