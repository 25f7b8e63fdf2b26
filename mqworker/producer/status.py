"""A stage's report to the Service, which uses it for status, health, metrics and waiting callers.

Lives in the Producer; reads the stage and changes nothing, but for the ids of messages that it keeps with their lane.
"""

import os
import time
from dataclasses import asdict

from mqworker.amqp.properties import decode_leniently
from mqworker.ipc.json_safe import text
from mqworker.ipc.stage_status import ConsumerStatus, InHand, OrderStatus, StageStatus
from mqworker.producer.lane import Lane
from mqworker.producer.order_status import order_status
from mqworker.producer.ordering import Ordering
from mqworker.producer.overdue import Moment, still
from mqworker.producer.stage import Stage
from mqworker.producer.timers import Timers

LONG = 0.5  # seconds after which the id of a message in hand is shown


def stage_status(stage: Stage, timers: Timers) -> StageStatus:
    """Return everything that is reported about a stage."""
    ledger, link, intake, dispatch = stage.ledger, stage.link, stage.intake, stage.dispatch
    fleet, settlement, publications = dispatch.fleet, stage.settlement, ledger.publications
    lanes = sorted(fleet.roster.lanes.values(), key=lambda lane: (lane.slot, lane.number))
    now = time.monotonic()
    starting = stage.desired.consumers and not fleet.roster.working() and not stage.as_wanted()
    backlog, flow, away = link.depth(), timers.flow, settlement.away
    empty = backlog == 0 and len(ledger) == 0 and link.state.connected
    awaited = now <= settlement.retry_until or (link.others() == 0 and away.expected(now))
    times = {
        "process": stage.service_time.histogram,
        "wait": dispatch.wait_time,
        "confirm": publications.confirm_time,
    }
    exits = {f"exit_{reason}": count for reason, count in dispatch.exits.items()}
    return StageStatus(
        stage=stage.spec.stage,
        pid=os.getpid(),
        state="draining" if stage.draining else "starting" if starting else "running",
        revision=stage.applied_revision,
        generation=min(
            (lane.generation for lane in lanes if fleet.roster.at_work(lane)), default=stage.desired.generation.number
        ),
        switch=None if stage.draining else fleet.switch,
        link=link.state,
        listening=intake.prefetch > 0,
        problem=intake.problem or fleet.staffing.problem or link.state.problem or _too_large(stage) or away.problem,
        crash_loop=fleet.staffing.crash_loop,
        consumers=tuple(_consumer(stage, lane, now) for lane in lanes),
        prefetch=intake.prefetch,
        held=len(ledger.backlog),
        dispatched=len(ledger.assignments),
        computed=publications.computed,
        settling=len(publications),
        held_bytes=ledger.held_bytes.total,
        kept=ledger.cache.kept,
        backlog=backlog,
        counters=asdict(ledger.counters) | settlement.processed | exits | timers.usage.counters,
        times={name: time.times for name, time in times.items()},
        p95=stage.service_time.quantile() or 0.0,
        rate=round(flow.rate, 3),
        last_settled=settlement.last_settled,
        stall=round(timers.stall, 4),
        output_backlog=None if stage.throttle is None else stage.throttle.depth,
        idle=empty and not awaited,
        arrival_rate=flow.arrival_rate,
        service_time=stage.service_time.mean,
        utilisation=flow.utilisation,
        held_up_by=flow.held_up_by,
        capacity=flow.capacity(fleet.roster.working(), _time_of_a_consumer(stage)),
        order=None if stage.ordering is None else _order(stage, stage.ordering, lanes, now),
        hold_back="retries" if empty and awaited else intake.hold_back.name.lower(),
        at=now,
        dead_backlog=stage.dead_backlog,
        journal=len(ledger.journal),
        faults=len(settlement.faults),
    )


def _time_of_a_consumer(stage: Stage) -> float | None:
    """Return the seconds of a whole Consumer that recent messages took: its messages share it."""
    mean = stage.service_time.mean
    return None if mean is None else mean / stage.spec.config.concurrency


def _order(stage: Stage, ordering: Ordering, lanes: list[Lane], now: float) -> OrderStatus:
    begun = {seq: since or lane.since for lane in lanes for seq, since in _in_hand(lane).items()}
    return order_status(stage.ledger, ordering, stage.spec.config.input.queue, stage.intake.prefetch, begun, now)


def _in_hand(lane: Lane) -> dict[int, float]:
    """Return when each message that a Consumer works on began; 0: it waits for a shared object."""
    if lane.seats is not None:
        return lane.seats.working()
    seq, since = lane.in_hand() if lane.state == "busy" else (0, 0.0)
    return {seq: since} if seq else {}


def _too_large(stage: Stage) -> str:
    """Return a sentence on retries and dead letters whose body is above a limit that the broker was given later."""
    publications = stage.ledger.publications
    if not (count := publications.too_large):
        return ""
    return (
        f"{count} retries or dead letters cannot be placed ({publications.refusal}): they are kept and tried again; "
        "raise max_message_size at the broker and restart it"
    )


def _consumer(stage: Stage, lane: Lane, now: float) -> ConsumerStatus:
    begun = sorted(_in_hand(lane).items(), key=lambda each: each[1] or now)
    known = {} if lane.seats is None else lane.seats.ids
    ids = {seq: known.get(seq) or _id_of(stage, seq) for seq, since in begun if now - since > LONG}
    if lane.seats is not None:
        lane.seats.ids = ids
    held_since, holder = _still(lane, now)
    messages = tuple(InHand(since, ids.get(seq, "")) for seq, since in begun)
    oldest = messages[0] if messages else InHand(0.0, "")
    exit_, exit_at = stage.dispatch.last_exits.get(lane.slot, ("", 0.0))
    return ConsumerStatus(
        slot=lane.slot,
        pid=lane.pid,
        leaving=bool(lane.replace_reason) or lane.number in stage.dispatch.fleet.roster.leaving,
        state=stage.dispatch.fleet.roster.state_of(lane),
        generation=lane.generation,
        code=lane.code,
        done=lane.done,
        message_since=oldest.since,
        message_id=oldest.message_id,
        rss=lane.rss,
        used=len(stage.ledger.assignments.on(lane.number)),
        seats=0 if lane.seats is None else lane.seats.count,
        messages=() if lane.seats is None else messages,
        held_since=held_since,
        held_by=ids.get(holder, ""),
        cpu=round(lane.cpu, 3),
        exit=exit_,
        exit_at=exit_at,
        seq=begun[0][0] if begun else 0,
    )


def _still(lane: Lane, now: float) -> tuple[float, int]:
    """Return since when nothing else in a Consumer with seats makes progress, and the message that holds it."""
    if lane.seats is None or lane.state != "busy":
        return 0.0, 0
    words = lane.seats.words
    return still(Moment(lane.seats.working(), words.running, words.running_since, words.pulse), now)


def _id_of(stage: Stage, seq: int) -> str:
    entry = stage.ledger.entry(seq)
    return text(decode_leniently(entry.properties).message_id or "") if entry is not None else ""
