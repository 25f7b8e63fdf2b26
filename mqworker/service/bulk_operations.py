"""The Service's side of operations on many dead letters: begun here, carried out by the broker admin.

Runs on the Service's main loop. Owns the table of operations, those in progress and the last ENDED that have ended, and
their totals, for the metrics. Receives AdminProgress; when the broker admin dies, its operations have failed, and some
of their letters may be in both queues. When the service ends, all of them are ended before the broker admin is. The
HTTP threads read `all` and `counts`, which are replaced and never changed. Raises ControlError.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from mqworker.broker_admin.client import BrokerAdminClient
from mqworker.control.errors import ControlError
from mqworker.ipc import logs
from mqworker.ipc.admin_messages import AdminProgress, BulkView

ENDED = 50  # operations that have ended and are still shown
DEADLINE = 10.0  # seconds to begin an operation, or to have it end
DOUBLED = 100  # letters that a killed broker admin may leave in both queues: the last two batches
LISTED = "`mqworker operations list` shows those in progress, and the last ones"
OUTCOMES = ("done", "gone", "refused", "unsure")
UNSURE = ("deadline", "unavailable")  # kinds of errors after which it may have begun nevertheless

log = logging.getLogger("mqworker.service.bulk_operations")


class BulkOperations:
    """See the module head."""

    def __init__(self, broker_admin: BrokerAdminClient, *, doubles: bool = True) -> None:
        """`doubles`: whether a killed broker admin may leave letters in both queues; the embedded broker's does not."""
        self.all: tuple[BulkView, ...] = ()  # the oldest first
        self.counts: Mapping[tuple[str, str, str], int] = {}  # letters, by stage, kind and outcome
        self._broker_admin = broker_admin
        self._doubled = DOUBLED if doubles else 0
        self._beginning: set[asyncio.Task[BulkView]] = set()
        self._ending: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()  # something has ended
        broker_admin.on_progress = self._progress
        broker_admin.on_end = self._admin_ended

    async def begin(self, stage: str, selection: str, kind: str, count: int, by: str) -> BulkView:
        """Begin to replay or drop what is selected; if repeated for the same selection, returns the first operation."""
        if self._ending is not None:
            raise ControlError("draining", "the service is ending and begins no operation")
        name, now = secrets.token_hex(6), time.time()
        view = BulkView(name, "looking", stage, kind, by, 0, 0, count, 0, 0, 0, "", now, now)
        self._put(view)
        arguments = {"stage": stage, "selection": selection, "kind": kind, "count": count, "operation": name}
        asking = asyncio.create_task(self._ask(view, arguments))  # goes on if its caller is cancelled
        self._beginning.add(asking)
        asking.add_done_callback(self._has_asked)
        return await asyncio.shield(asking)

    async def cancel(self, operation: str) -> BulkView:
        """End an operation before its next batch; an operation that has ended stays as it is."""
        found = self._get(operation)
        if found is None:
            raise ControlError("unknown_operation", f"there is no operation {operation!r}; {LISTED}")
        if not found.over:
            await self._broker_admin.ask("dlq_cancel", {"operation": operation}, DEADLINE)
        return self._get(operation) or found

    def end(self) -> None:
        """Begin no more operations, and end those in progress before their next batch: the service is ending."""
        self._ending = self._ending or asyncio.create_task(self._cancel_all())

    async def ended(self, patience: float) -> None:
        """Wait until all operations have ended, for at most `patience` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while any(not view.over for view in self.all):
                    self._settled.clear()
                    await self._settled.wait()

    # -- inside

    async def _ask(self, view: BulkView, arguments: dict[str, Any]) -> BulkView:
        """Have the broker admin begin an operation; if that fails, its view is removed or marked as failed."""
        name = view.operation
        try:
            begun = await self._broker_admin.ask("dlq_begin", arguments, DEADLINE)
        except ControlError as error:
            if error.kind not in UNSURE:
                self._remove(name)
            elif not self._broker_admin.alive or not await self._cancelled(name):
                self._fail(name, str(error))
            raise
        except BaseException:
            self._remove(name)
            raise
        if begun != name:
            self._remove(name)
            if (before := self._get(begun)) is not None:
                return before
            raise ControlError("unknown_operation", f"the operation of this selection ended long ago; {LISTED}")
        what = f"{view.kind} of {view.wanted} dead letters of stage {view.stage} has begun (operation {name})"
        fields = {"stage_name": view.stage, "operation": name, "kind": view.kind, "count": view.wanted}
        logs.report(log, logging.INFO, "bulk_started", what, **fields)
        if self._ending is not None:  # it has not been ended by `end`
            await self._cancelled(name)
        return self._get(name) or view

    def _has_asked(self, asking: "asyncio.Task[BulkView]") -> None:
        self._beginning.discard(asking)
        if not asking.cancelled():
            asking.exception()  # possibly nobody has waited for it

    async def _cancelled(self, name: str) -> bool:
        """Have the broker admin end an operation; returns whether it is, or may be, in progress there."""
        try:
            return bool(await self._broker_admin.ask("dlq_cancel", {"operation": name}, DEADLINE))
        except ControlError:
            return self._broker_admin.alive

    async def _cancel_all(self) -> None:
        await asyncio.gather(*(self._cancelled(view.operation) for view in self.all if not view.over))

    def _progress(self, progress: AdminProgress) -> None:
        found = self._get(progress.operation)
        if found is None or found.over:
            return
        changes = {name: getattr(progress, name) for name in progress.__struct_fields__}
        self._advance(found, msgspec.structs.replace(found, **changes))

    def _admin_ended(self, why: str) -> None:
        for view in self.all:
            self._fail(view.operation, why)

    def _fail(self, operation: str, why: str) -> None:
        """Mark an operation as failed, because no further report about it will come."""
        view = self._get(operation)
        if view is not None and not view.over:
            unsure = min(self._doubled, view.done + view.unsure) if view.kind == "replay" else 0
            self._advance(
                view, msgspec.structs.replace(view, state="failed", reason=why, unsure=unsure, at=time.time())
            )

    def _advance(self, old: BulkView, new: BulkView) -> None:
        self._put(new)
        self._count("done", new, new.done - old.done)
        if not new.over:
            return
        self._settled.set()
        for outcome in OUTCOMES[1:]:
            self._count(outcome, new, getattr(new, outcome))
        failed = new.state == "failed"
        done = "replayed" if new.kind == "replay" else "dropped"
        what = f"{new.kind} of {new.wanted} dead letters of stage {new.stage}: {new.state}, {new.done} {done}"
        if new.gone:
            what += f", {new.gone} were no longer there"
        if new.unsure:
            what += f", up to {new.unsure} may be in both queues"
        if new.refused and not failed:
            what += f", {new.refused} could not be"
        if new.reason:
            what += f": {new.reason}"
        fields = {"stage_name": new.stage, "operation": new.operation, "kind": new.kind, "done": new.done}
        event, level = ("bulk_failed", logging.WARNING) if failed else ("bulk_done", logging.INFO)
        logs.report(log, level, event, what, **fields, state=new.state, unsure=new.unsure)

    def _count(self, outcome: str, view: BulkView, more: int) -> None:
        if more:
            key = (view.stage, view.kind, outcome)
            self.counts = {**self.counts, key: self.counts.get(key, 0) + more}

    def _get(self, operation: str) -> BulkView | None:
        return next((view for view in self.all if view.operation == operation), None)

    def _put(self, view: BulkView) -> None:
        """Add or replace an operation, and forget the oldest of those that have ended."""
        some = [view if each.operation == view.operation else each for each in self.all]
        if view not in some:
            some.append(view)
        ended = [each.operation for each in some if each.over]
        forgotten = set(ended[: max(0, len(ended) - ENDED)])
        self.all = tuple(each for each in some if each.operation not in forgotten)

    def _remove(self, operation: str) -> None:
        self.all = tuple(each for each in self.all if each.operation != operation)
        self._settled.set()
