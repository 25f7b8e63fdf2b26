"""The user's code of a source: a generator, or a function that is called at ticks.

Runs in the main thread of the source's process. Owns the generator, and closes it. Hands over what it yields as
messages, each with the record that may be stored once the message is confirmed. The handover makes it wait, and stops
it. Whatever the user's code raises ends this life; the next one goes on from the stored record.
"""

import logging
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from mqworker.brokers.records import PositionRecord
from mqworker.ipc import logs
from mqworker.ipc.source_messages import RunDone, SourceEnded, SourceSpec, Tick
from mqworker.jobs.chain import check_params
from mqworker.jobs.code_finder import use_code
from mqworker.jobs.failures import describe
from mqworker.jobs.item import NOWHERE, SourceItem
from mqworker.jobs.loading import Job, load_source
from mqworker.sources.handover import Handover, Stopped
from mqworker.sources.ids import Ids, tick_text
from mqworker.sources.items import publication
from mqworker.sources.schedule import CORRECTION, Missed, RunTick, Ticks, Wait, decide, make_schedule

WALL = 5.0  # seconds after which the wall clock is read again

_encode = msgspec.json.Encoder().encode


class Source:
    """See the module head. `tell` reports the end of a run; it can be called from this thread."""

    def __init__(self, spec: SourceSpec, handover: Handover, log: logging.Logger, tell: Any) -> None:
        self._spec = spec
        self._handover = handover
        self._log = log
        self._tell = tell
        self._position: Any = NOWHERE  # of the last item that was handed over
        self._number = 0  # the number of the last record
        self._done: int | None = None  # the last tick that was run or missed
        self._job: Job
        self._ids: Ids

    def run(self, run: str, loaded: Callable[[], None]) -> SourceEnded:
        """Load the code, run it to its end, and return how it ended. `run` names this life in ids.

        `loaded` is called once the code is ready to begin: only then may the lock be taken.
        """
        try:
            self._job, params = self._load()
            schedule = make_schedule(self._spec.config) if self._spec.config.scheduled else None
        except BaseException as error:  # noqa: BLE001 - user code may raise anything
            return self._failed(error, "unfit")
        loaded()
        try:
            record = self._handover.wait_opened()
            if record is not None:
                self._position, self._number, self._done = record.position, record.number, record.due
            self._ids = Ids(self._spec.name, run, self._position)
            self._arguments = {"params": params, "log": self._log}
            if schedule is None:
                self._generate()
            else:
                self._follow(schedule)
        except Stopped:
            return SourceEnded("stopped")
        except BaseException as error:  # noqa: BLE001 - as above
            return self._failed(error, "failed")
        return SourceEnded("finished")

    def _load(self) -> tuple[Job, Any]:
        spec = self._spec
        root, copy = use_code(spec.root, spec.copy, spec.state_dir)
        job = load_source(spec.job, root, copy, scheduled=spec.config.scheduled)
        return job, check_params([job], spec.params).get(spec.job)

    def _failed(self, error: BaseException, how: Any) -> SourceEnded:
        what = describe(error)
        reason = f"{what.type}: {what.message}" if what.message else what.type
        message = f"source {self._spec.name} ends: {reason}"
        logs.report(self._log, logging.ERROR, "source_failed", message, traceback=what.traceback or None)
        return SourceEnded(how, reason)

    # --- a generator

    def _generate(self) -> None:
        made = self._call(None)
        if not _yields(made):
            raise TypeError(f"a source without every or cron must yield its items, but {self._spec.job} returned one")
        self._publish_all(made)

    def _call(self, due: datetime | None) -> Any:
        known = self._arguments | {"position": None if self._position is NOWHERE else self._position, "due": due}
        return self._job.target(**{name: known[name] for name in self._job.arguments})

    def _publish_all(self, made: Iterator[Any]) -> int:
        """Hand over everything that is yielded; returns the number of items."""
        count = 0
        try:
            while True:
                self._handover.pull()
                try:
                    value = next(made)
                    if value is not None:
                        self._publish(value)
                        count += 1
                except StopIteration:
                    return count
                finally:
                    self._handover.give_up()
        finally:
            if hasattr(made, "close"):  # a generator: its `finally` blocks run now
                made.close()

    def _publish(self, value: Any) -> None:
        item = value if isinstance(value, SourceItem) else SourceItem(value)
        message = publication(item, self._ids.of(item), self._spec.stage, self._spec.broker)
        record = None
        if item.position_json is not None:
            self._position = msgspec.json.decode(item.position_json)  # the user's object may change
            record = self._record()
        self._handover.put(message, record)

    def _record(self) -> bytes:
        self._number += 1
        return _encode(
            PositionRecord(
                self._number, self._position, self._done, self._spec.job, socket.gethostname(), round(time.time(), 3)
            )
        )

    # --- a schedule

    def _follow(self, schedule: Ticks) -> None:
        """Call the function at its ticks, until the source is stopped."""
        catch_up = self._spec.config.catch_up == "last"
        done = self._done
        while True:
            now = time.time_ns() // 1_000_000
            if done is None:  # before this, nothing is missed; storing it makes a later failed tick known
                done = self._done = now
                self._handover.put(None, self._record())
            if done - now > CORRECTION:
                what = f"the clock was set back: the ticks after {tick_text(now)} come (again)"
                logs.report(self._log, logging.WARNING, "clock_set_back", f"source {self._spec.name}: {what}")
                done = now
            match decide(schedule, now, done, catch_up=catch_up):
                case Wait(until):
                    self._handover.due = until
                    if run := self._handover.pause(min((until - now) / 1000, WALL)):
                        self._run_now(run, schedule)
                case Missed(count, newest):
                    self._missed(count, newest)
                    done = newest
                case RunTick(due, missed):
                    if missed:
                        self._missed(missed, None)
                    self._tick(due, schedule)
                    done = due

    def _missed(self, count: int, newest: int | None) -> None:
        """Report missed ticks; `newest`: the last of them, stored as done, unless another tick runs now."""
        self._handover.missed += count
        ticks = f"{count:,} ticks were" if count > 1 else "a tick was"
        until = "" if newest is None else f", the last at {tick_text(newest)}"
        what = f"source {self._spec.name}: {ticks} missed{until}"
        logs.report(self._log, logging.WARNING, "tick_missed", what, missed=count)
        if newest is not None:
            self._done = newest
            self._handover.put(None, self._record())

    def _tick(self, due: int, schedule: Ticks) -> None:
        self._handover.due = due
        began = time.monotonic()
        try:
            count = self._call_at(due, tick_text(due), schedule)
        except Stopped:
            raise
        except Exception as error:
            what = f"source {self._spec.name}: the tick of {tick_text(due)} has failed: {describe(error).type}"
            logs.report(self._log, logging.ERROR, "tick_failed", what)
            raise
        self._done = due
        self._handover.put(None, self._record())
        self._handover.last_tick = Tick(due, round(time.monotonic() - began, 3), count)
        self._handover.ticks += 1

    def _call_at(self, at: int, base: str, schedule: Ticks) -> int:
        """Call the function; returns the number of items that it made."""
        self._handover.begin_call()
        made = self._call(datetime.fromtimestamp(at / 1000, UTC).astimezone(schedule.zone))
        self._ids.begin(base, yields=_yields(made))
        if _yields(made):
            return self._publish_all(made)
        if made is None:
            return 0
        self._handover.pull()
        try:
            self._publish(made)
        finally:
            self._handover.give_up()
        return 1

    def _run_now(self, run: str, schedule: Ticks) -> None:
        """Call the function outside its ticks; a failure is reported to whoever asked, and has no other effect."""
        count, reason = 0, ""
        try:
            count = self._call_at(time.time_ns() // 1_000_000, f"run-{run}", schedule)
            self._handover.wait_confirmed()
            self._handover.runs += 1
        except Stopped:
            self._tell(RunDone(run, 0, "the source was stopped in the meantime"))
            raise
        except Exception as error:  # noqa: BLE001 - user code may raise anything
            what = describe(error)
            reason = f"{what.type}: {what.message}"
            message = f"source {self._spec.name}: a run that was asked for has failed: {reason}"
            logs.report(self._log, logging.ERROR, "run_failed", message, traceback=what.traceback or None)
        self._tell(RunDone(run, count, reason))


def _yields(made: Any) -> bool:
    return hasattr(made, "__next__")
