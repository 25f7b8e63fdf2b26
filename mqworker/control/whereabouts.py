"""Where a message is, in one sentence: from what the stages know of it.

Pure; used by the route for messages, whose answer the page and `mqworker message` show. A stage knows the messages in
its hands, and the last ones that it has settled. What waits in a queue, or in one for retries, no stage sees.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from mqworker.control.wording import seconds
from mqworker.ipc.inspection import MessageAnswer, Trace

IN_HAND, RETRY, SETTLED, DEAD, UNKNOWN = "in_hand", "retry", "settled", "dead", "unknown"
NAMED = 3  # stages of which each tells how far back it remembers, in one sentence
_FIRST = (IN_HAND, RETRY, DEAD, SETTLED)  # the state of several stages that counts
_STATES = {
    "delayed": RETRY,
    "retried": RETRY,
    "renewed": RETRY,
    "result": SETTLED,
    "dropped": SETTLED,
    "dead": DEAD,
}


class Where(NamedTuple):
    """Where a message is: one of the states above, a sentence without its beginning, and since when it is dead."""

    state: str
    sentence: str
    age: float | None = None  # seconds for which it is dead


def where(answer: MessageAnswer, now: float, wall: float) -> Where:
    """Return where a message is as one stage knows it; `now` is CLOCK_MONOTONIC, `wall` the time of day."""
    if not answer.traces:
        since = _clock(answer.since, now, wall)
        return Where(UNKNOWN, f"not in hand, nor among the {answer.remembers:,} messages settled since {since}")
    last = answer.traces[-1]
    age = now - (last.settled or last.finished) if last.state == "dead" else None
    return Where(_STATES.get(last.state, IN_HAND), _sentence(last, now, wall), age)


def where_now(
    places: Mapping[str, Where], looked: float | None, letters: Sequence[str], silent: Iterable[str] = ()
) -> Where:
    """Return where a message is, from what each stage knows; `silent`: those that have not answered.

    `letters`: the stages that have a dead letter of it, as of `looked` seconds ago; None: not all were looked through.
    Only a look after its death shows that the letter has left its queue.
    """
    for state in _FIRST:
        for stage, place in reversed([*places.items()]):
            if place.state == state:
                left = place.age is not None and looked is not None and looked < place.age and stage not in letters
                gone = "; no longer in the dead-letter queue" if left else ""
                return Where(state, f"stage {stage}: {place.sentence}{gone}")
        if state == DEAD and letters:
            return Where(DEAD, f"stage {letters[0]}: it is a dead letter")
    parts = [f"stage {stage}: {place.sentence}" for stage, place in places.items()]
    if len(parts) > NAMED:
        parts = [f"none of {len(parts)} stages has it in hand, or remembers it"]
    parts += [f"stage {stage}: no answer" for stage in silent]
    dead = (
        "dead letters were not all looked through" if looked is None else f"no dead letter as of {seconds(looked)} ago"
    )
    may = "it is still in a queue, was never here, or is forgotten: settled before that"
    return Where(UNKNOWN, f"unknown: {may} ({'; '.join((*parts, dead))})")


def _sentence(last: Trace, now: float, wall: float) -> str:
    if last.state not in _STATES:
        return _in_hand(last, now)
    at = _clock(last.settled or last.finished, now, wall)
    match last.state:
        case "delayed":
            return f"waits in its place for attempt {last.attempt}, which {_due(last, now)}"
        case "retried":
            return f"{_failed(last)}, at {at}; the next attempt {_due(last, now)}"
        case "renewed":
            return f"put back into the queue as a new message at {at}"
        case "dead":
            return f"dead since {at}: {_failed(last)}"
    result = "with a result" if last.state == "result" else "without a result"
    took = f", after {seconds(last.duration)}{_consumer(last)}" if last.finished else ""
    return f"settled at {at} {result}{took}"


def _in_hand(last: Trace, now: float) -> str:
    who = _consumer(last)
    match last.state:
        case "held":
            return f"waits for a Consumer, for {seconds(now - last.received)}"
        case "out" if last.begun:
            return f"in hand for {seconds(now - last.begun)}{who}, attempt {last.attempt}"
        case "out":
            return f"waits{who} behind other messages, or for a shared object, for {seconds(now - last.received)}"
        case "computed":
            return f"computed{who}, and waits for its turn to be published"
        case "placing":
            return f"computed{who}, and on its way to the broker" + (f": {last.error}" if last.error else "")
    return "its outcome is kept: the connection was lost, and the broker has to deliver it again"


def _consumer(last: Trace) -> str:
    return f" in Consumer {last.slot}" if last.slot >= 0 else ""


def _failed(last: Trace) -> str:
    what = f"{last.reason}: {last.error_type}: {last.error}" if last.reason else "failed"
    place = f" ({last.place})" if last.place else ""
    return f"attempt {last.attempt}: {what}{place}"


def _due(last: Trace, now: float) -> str:
    if not last.due:
        return "is about to begin"
    if last.due >= now:
        return f"is due in {seconds(last.due - now)}"
    return f"was due {seconds(now - last.due)} ago: it waits in the queue, or another service has it"


def _clock(at: float, now: float, wall: float) -> str:
    """Return a time of CLOCK_MONOTONIC as a time of day in UTC, as logs do; with the date, if it is not today's."""
    then, today = datetime.fromtimestamp(wall - now + at, UTC), datetime.fromtimestamp(wall, UTC)
    return then.strftime("%H:%M:%S UTC" if then.date() == today.date() else "%Y-%m-%d %H:%M:%S UTC")
