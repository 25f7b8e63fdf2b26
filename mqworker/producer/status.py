"""A stage's account of itself, for the Service, and through it for status, health, metrics and waiting callers.

Lives in the Producer; reads the engine and changes nothing.
"""

import os
import time
from dataclasses import asdict

from mqworker.amqp.properties import decode_leniently
from mqworker.ipc.messages import ConsumerStatus, StageStatus, Times
from mqworker.producer.engine import Engine
from mqworker.producer.lane import Lane
from mqworker.producer.timers import Timers

LONG = 0.5  # seconds after which a message in hand is shown by its id


def stage_status(engine: Engine, watch: Timers) -> StageStatus:
    """Everything that the outside may know."""
    ledger, fleet, link = engine.ledger, engine.fleet, engine.link
    lanes = sorted(fleet.lanes.values(), key=lambda lane: (lane.slot, lane.number))
    now = time.monotonic()
    applied = engine.applied()
    starting = not applied and not any(lane.state in ("idle", "busy") for lane in lanes) and engine.desired.consumers
    backlog = link.depth()
    times = {"process": engine.service_time.histogram, "wait": engine.wait_time, "confirm": ledger.confirm_time}
    counters = (
        asdict(ledger.counters) | engine.processed | {f"exit_{reason}": count for reason, count in engine.exits.items()}
    )
    return StageStatus(
        stage=engine.spec.stage,
        pid=os.getpid(),
        state="draining" if engine.draining else "starting" if starting else "running",
        revision=engine.desired.revision if applied else engine.desired.revision - 1,
        generation=min((lane.generation for lane in lanes), default=engine.desired.generation),
        link=link.state,
        listening=engine.prefetch > 0,
        problem=engine.problem or fleet.problem or _too_large(engine),
        crash_loop=fleet.crash_loop,
        consumers=tuple(_consumer(engine, lane, now) for lane in lanes),
        prefetch=engine.prefetch,
        held=ledger.held,
        dispatched=ledger.out,
        settling=ledger.placing,
        held_bytes=ledger.held_bytes,
        kept=ledger.kept,
        backlog=backlog,
        counters=counters,
        times={name: Times(tuple(time.counts), time.total) for name, time in times.items()},
        p95=engine.service_time.quantile() or 0.0,
        rate=round(watch.rate, 3),
        last_settled=engine.last_settled,
        stall=round(watch.stall, 4),
        idle=backlog == 0 and len(ledger) == 0 and link.state.connected and now > engine.retry_until,
    )


def _too_large(engine: Engine) -> str:
    """Tell of retries and dead letters whose body, that of the input, is above a limit the broker was given since."""
    if not (count := engine.ledger.too_large):
        return ""
    return (
        f"{count} retries or dead letters cannot be placed ({engine.ledger.refusal}): they are kept and tried again; "
        "raise max_message_size at the broker and restart it"
    )


def _consumer(engine: Engine, lane: Lane, now: float) -> ConsumerStatus:
    seq, since = lane.in_hand() if lane.state == "busy" else (0, 0.0)
    message_id = ""
    if seq and now - since > LONG:
        entry = engine.ledger.entry(seq)
        message_id = (decode_leniently(entry.properties).message_id or "") if entry is not None else ""
    return ConsumerStatus(
        slot=lane.slot,
        pid=lane.pid,
        state=lane.state,
        generation=lane.generation,
        code=lane.code_generation,
        done=lane.done,
        message_since=since if seq else 0.0,
        message_id=message_id,
        rss=lane.rss,
        used=len(engine.ledger.in_lane(lane.number)),
    )
