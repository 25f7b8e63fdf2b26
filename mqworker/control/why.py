"""Why nothing is happening in a stage, in one sentence; or that all is well.

Pure: one decision for the page, the command line and the API, none of which makes a sentence of its own. The first line
of the table that applies is reported: what an operator has switched off comes before what is broken, and that before
what is merely slow. `code` is relied on by other programs; the sentence is for people.

Longer than most modules, because the order of the answers is the decision: it is read from the top, in one place.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from mqworker.config.line import Place
from mqworker.control.back_pressure import next_stage, where_it_begins
from mqworker.control.outlook import ORDER, RETRIES, Outlook, outlook
from mqworker.control.views import StageView
from mqworker.control.wording import about, messages, rate
from mqworker.ipc.logs import escape
from mqworker.ipc.stage_status import BlockedOrder, ConsumerStatus, LinkState, StageStatus

LONG = 30.0  # seconds in hand from which on a message is long ...
OUTLIER = 20.0  # ... unless messages of this stage take so long: times their 95th percentile
STILL = 0.05  # messages per second, lately, below which an empty queue means that nothing happens
RECENT = 600.0  # seconds for which a change that was undone is reported
FULL = 0.8  # share of max_backlog from which on the output queue counts as full (brokers/credit)
LONGEST = 600  # characters of a sentence
SWITCHED_OFF = ("stopped", "paused", "no_consumers")

Level = Literal["ok", "info", "warning", "error"]
Paused = tuple[str, float | None]  # by whom ("": not known), and when (wall clock; None: not known)
_SEVERITY: tuple[Level, ...] = ("ok", "info", "warning", "error")
_WHO = {  # how those are called who have no name of their own
    "": "(by whom is not known)",
    "socket": "from the command line",
    "anybody": "over HTTP",
    "token": "with the token",
    "signal": "by a signal",
    "service": "by the service itself",
}


class Why(msgspec.Struct, frozen=True):
    """The answer."""

    code: str  # a fixed name
    level: Level
    sentence: str
    since: float | None = None  # wall clock; None: not known
    remedy: str = ""  # a command that changes it, for those who have a command line


class WhyFacts(NamedTuple):
    """What a decision needs to know besides the stage itself."""

    now: float  # CLOCK_MONOTONIC
    wall: float
    paused: bool = False  # whether a signal has paused the whole service
    paused_since: float | None = None  # wall clock; None: not known
    paused_by: Paused = ("", None)  # who last paused or stopped this stage
    line: Sequence[Place] = ()
    views: Mapping[str, StageView] = {}  # of all stages of this service
    limit: int = 0  # max_backlog of the output; 0: none


def why(view: StageView, facts: WhyFacts) -> Why:
    """Return why nothing is happening in a stage, or what is."""
    found = _first(view, facts)
    level, sentence = found.level, found.sentence
    if found.code in SWITCHED_OFF and _waits(view):
        level = "warning"  # nothing is done, and something waits
    if change := _change(view, facts.wall):
        level = max(level, change.level, key=_SEVERITY.index)
        sentence = f"{sentence}; {change.sentence}"
    sentence = escape(sentence)
    if len(sentence) > LONGEST:
        sentence = sentence[: LONGEST - 3] + "..."
    return msgspec.structs.replace(found, level=level, sentence=sentence)


def _waits(view: StageView) -> bool:
    """Return whether messages wait, as far as that is known."""
    return bool(outlook(view, paused=False).unfinished)


def _first(view: StageView, facts: WhyFacts) -> Why:
    """Return the first answer that applies."""
    status = view.actual
    if not view.desired.running or status is None or status.state == "draining" or view.state == "stopping":
        return _without_tree(view, facts)
    if status.crash_loop:
        problem = status.problem or view.problem or "Consumers end before they finish a message"
        return Why("crash_loop", "error", f"Crash loop: {problem}")
    return _switched_off(view, facts) or _kept_out(view, status, facts) or _at_work(view, status, facts)


def _without_tree(view: StageView, facts: WhyFacts) -> Why:
    status = view.actual
    if not view.desired.running and status is None and view.state == "stopped":
        return Why(
            "stopped",
            "info",
            f"Stopped{_by(facts)}",
            facts.paused_by[1],
            f"`mqworker start --stage {view.name}` starts it",
        )
    if status is not None:
        left = messages(status.dispatched + status.computed + status.settling)
        return Why("draining", "info", f"It ends, and finishes what it has in hand: {left}")
    if view.state == "backoff":
        return Why("backoff", "error", view.problem or "Its process has ended, and is started again after a pause")
    if not view.desired.running:
        return Why("draining", "info", "Its process is being ended")
    if view.state == "stopped":
        return Why("draining", "info", "It has ended, because the service ends")
    return Why("starting", "info", view.problem or "Its process is being started")


def _switched_off(view: StageView, facts: WhyFacts) -> Why | None:
    """Return what an operator has switched off; None: nothing."""
    desired = view.desired
    if facts.paused:
        since = _ago(facts.paused_since, facts.wall)
        return Why("paused", "info", f"Paused by the signal TSTP{since}: CONT resumes", facts.paused_since)
    if not desired.listening:
        remedy = f"`mqworker resume --stage {view.name}` resumes"
        return Why("paused", "info", f"Paused{_by(facts)}", facts.paused_by[1], remedy)
    if not desired.working:
        sentence = "Working is switched off, so no Consumers run"
        return Why("no_consumers", "info", sentence, remedy="`POST /startworking` switches it on")
    if not desired.consumers:
        if desired.auto:
            return Why("no_consumers", "info", "Its share of the Consumers is 0")
        remedy = f"`mqworker scale 2 --stage {view.name}` starts two"
        return Why("no_consumers", "info", "No Consumers are wanted", remedy=remedy)
    return None


def _kept_out(view: StageView, status: StageStatus, facts: WhyFacts) -> Why | None:
    """Return what keeps messages from coming, or from beginning; None: nothing does."""
    link = status.link
    if found := _broker(link) or _setting_up(view, status) or _held_back(view, status, facts):
        return found
    if link.waits:
        return Why("standby", "info", f"Another service takes the messages: {link.waits}")
    if status.problem:
        return Why("problem", "warning", _sentence(status.problem))
    return None if link.consuming else _not_consuming(link)


def _broker(link: LinkState) -> Why | None:
    if not link.connected:
        return Why("broker", "error", _sentence(link.reason) or "Not connected to the broker")
    if link.blocked:
        return Why("alarm", "warning", "The broker refuses messages, for want of memory or disk: it has an alarm")
    return None


def _setting_up(view: StageView, status: StageStatus) -> Why | None:
    if _ready(status):
        return None
    if status.problem:
        return Why("problem", "error", _sentence(status.problem))
    return Why("starting", "info", f"{_consumers(view, status)} are set up")


def _not_consuming(link: LinkState) -> Why:
    more = f": {link.reason}" if link.reason else ""
    return Why("starting", "info", f"The broker has not registered the consumer yet{more}")


def _held_back(view: StageView, status: StageStatus, facts: WhyFacts) -> Why | None:
    expected = outlook(view, paused=facts.paused).held_back_by
    if status.hold_back in ("bytes", "unplaced"):
        return Why(status.hold_back, "warning", _sentence(status.problem) or "Messages are held back")
    if status.hold_back == "output" or (expected == "max_backlog" and status.hold_back == "no"):
        return _output_full(view.name, status, facts)
    return None


def _output_full(stage: str, status: StageStatus, facts: WhyFacts) -> Why:
    """Return which stage's queue is full, and which one is the reason at the end of the line."""
    depth, after = status.output_backlog, next_stage(stage, facts.line)
    if depth is None or depth < FULL * facts.limit:  # it has just been full, or how much it holds is not known
        whose = f" (it is the input of stage {after})" if after is not None else ""
        return Why("output_full", "info", _sentence(status.problem or "the output queue is full at times") + whose)
    numbers = f"{depth:,} of {facts.limit:,}"
    if after is None:
        return Why("output_full", "info", f"The output queue is full ({numbers}): whoever takes from it is slower")
    root, is_so = where_it_begins(after, facts.line, facts.views, paused=facts.paused)
    who = f"{after} {is_so}" if root == after else f"{after} waits for {root}, which {is_so}"
    return Why("output_full", "info", f"The queue of stage {after} is full ({numbers}): {who}")


def _at_work(view: StageView, status: StageStatus, facts: WhyFacts) -> Why:
    """Return its progress: messages come, and there are Consumers for them."""
    expected = outlook(view, paused=facts.paused)
    order = status.order
    if expected.held_back_by == ORDER and order is not None:
        if order.blocked is not None:
            return _blocked(order.blocked, facts)
        what = "in this order nothing can begin before another message is settled"
        return Why("order", "warning" if order.stuck else "info", _sentence(what))
    if (long := _long(view, status, facts)) is not None:
        return long
    if (waiting := _retries(status, expected)) is not None:
        return waiting
    if expected.unfinished == 0 and status.rate < STILL:
        return _idle(view, status, facts)
    return _working(view, status, expected, facts)


def _blocked(blocked: BlockedOrder, facts: WhyFacts) -> Why:
    of = f" of {blocked.key}" if blocked.key else ""
    here = about(max(0.0, facts.now - blocked.since))
    who = f"Blocked by message {blocked.message_id or '(without an id)'}{of}, here for {here}"
    since = _wall(blocked.since, facts)
    return Why("order", "warning", f"{who}: {blocked.reason}; {blocked.behind:,} wait behind it", since)


def _long(view: StageView, status: StageStatus, facts: WhyFacts) -> Why | None:
    """Return the reason that all Consumers are on messages that take far longer than others; None if not all are."""
    limit = _limit(status)
    ready = [each for each in status.consumers if each.state in ("idle", "busy")]
    if not ready or not all(_stuck(each, limit, facts.now) for each in ready):
        return None
    oldest = min(ready, key=lambda each: each.message_since or math.inf)
    which = _which(oldest, facts.now)
    return Why(
        "long",
        "warning",
        f"{_consumers(view, status)} work on long messages, the oldest{which}",
        _wall(oldest.message_since, facts),
    )


def _limit(status: StageStatus) -> float:
    """Return the seconds from which on a message in hand is long."""
    return max(LONG, OUTLIER * status.p95)


def _stuck(consumer: ConsumerStatus, limit: float, now: float) -> bool:
    """Return whether this Consumer can begin nothing because of messages that take long."""
    if consumer.held_since:
        return now - consumer.held_since > limit
    if not consumer.seats:
        return bool(consumer.message_since) and now - consumer.message_since > limit
    full = len(consumer.messages) >= consumer.seats
    return full and all(each.since and now - each.since > limit for each in consumer.messages)


def _which(consumer: ConsumerStatus, now: float) -> str:
    which = f" {consumer.message_id}" if consumer.message_id else ""
    return f"{which} for {about(max(0.0, now - consumer.message_since))}"


def _retries(status: StageStatus, expected: Outlook) -> Why | None:
    if status.hold_back == "retries":
        return Why("retries", "info", "All that is left waits in a delay queue for its next attempt")
    if expected.held_back_by == RETRIES and status.order is not None:
        left = status.order.delayed
        waits = "waits" if left == 1 else "wait"
        return Why("retries", "info", f"{messages(left)} {waits} here for the next attempt")
    return None


def _idle(view: StageView, status: StageStatus, facts: WhyFacts) -> Why:
    since = _wall(status.last_settled, facts) if status.last_settled else None
    empty = "is empty" if since is None else f"has been empty{_ago(since, facts.wall, ' for')}"
    return Why("idle", "ok", f"Listening, {_consumers(view, status)}; the queue {empty}", since)


def _working(view: StageView, status: StageStatus, expected: Outlook, facts: WhyFacts) -> Why:
    level: Level = "ok"
    if expected.growing:
        level = "info"
        arrive, done = rate(status.arrival_rate or 0.0), rate(status.capacity or 0.0)
        pace = f"growing: {arrive} arrive, {done} can be done"
    else:
        pace = rate(status.rate)
        if expected.seconds_left is not None:
            pace += f", done in {about(expected.seconds_left)}" if expected.seconds_left >= 1 else "; nothing waits"
        elif expected.unfinished is None:
            pace += "; how much waits is not known"
        elif expected.unfinished:
            pace += f"; {messages(expected.unfinished)} unfinished"
    sentence = f"Listening, {_consumers(view, status)}, {pace}"
    in_hand = [each for each in status.consumers if each.message_since]
    oldest = min(in_hand, key=lambda each: each.message_since, default=None)
    if oldest is not None and facts.now - oldest.message_since > _limit(status):
        level = "warning"
        sentence += f"; the oldest message in hand is{_which(oldest, facts.now)}"
    return Why("working", level, sentence)


def _change(view: StageView, wall: float) -> Why | None:
    """Return what to report about a change of jobs, code or parameters, besides what the stage does; None: nothing."""
    desired, candidate = view.desired, view.desired.candidate
    if candidate is not None:
        switch = view.actual.switch if view.actual is not None else None
        mine = switch is not None and switch.code == candidate.code
        ready = f", {switch.ready} of {switch.wanted} Consumers are ready" if switch is not None and mine else ""
        return Why("change", "info", f"generation {candidate.version.generation} is being prepared{ready}")
    last = desired.undone[-1] if desired.undone else None
    if last is not None and last.code > desired.code and wall - last.time < RECENT:
        level: Level = "info" if last.kind == "taken back" else "warning"
        ago = _ago(last.time, wall)
        return Why("change", level, f"generation {last.generation} was undone{ago}: {last.reason}", last.time)
    return Why("change", "warning", desired.degraded) if desired.degraded else None


def _consumers(view: StageView, status: StageStatus) -> str:
    return f"{_count(status.consumers)} of {view.desired.consumers} Consumers"


def _count(consumers: Iterable[ConsumerStatus]) -> int:
    return sum(each.state in ("idle", "busy") and not each.leaving for each in consumers)


def _ready(status: StageStatus) -> bool:
    return any(each.state in ("idle", "busy") for each in status.consumers)


def _by(facts: WhyFacts) -> str:
    who, when = facts.paused_by
    return f" {_WHO.get(who, f'by {who}')}{_ago(when, facts.wall)}"


def _ago(since: float | None, wall: float, word: str = "") -> str:
    """Return how long ago something was, or, after a word, for how long it lasts; "" if that is not known."""
    if since is None:
        return ""
    passed = about(max(0.0, wall - since))
    return f"{word} {passed}" if word else f" {passed} ago"


def _wall(monotonic: float, facts: WhyFacts) -> float:
    return facts.wall - (facts.now - monotonic)


def _sentence(text: str) -> str:
    """Return a sentence with a capital."""
    return text[:1].upper() + text[1:]
