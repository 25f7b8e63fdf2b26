"""Operations on many dead letters, as the Service knows them: begun here, carried out by the broker admin.

Runs on the Service's main loop. Owns the table of operations, those at work and the last ENDED that have ended, and
what they have come to in all, for the metrics. Receives AdminProgress; when the broker admin dies, its operations have
failed, and some of their letters may be in both queues. The HTTP threads read `all` and `counts`, which are replaced
and never changed. Fails with ControlError.
"""

import logging
import secrets
import time
from collections.abc import Mapping

import msgspec

from mqworker.broker_admin.client import BrokerAdminClient
from mqworker.control.control import ControlError
from mqworker.ipc import logs
from mqworker.ipc.admin_messages import AdminProgress, BulkView

ENDED = 50  # operations that have ended and are still shown
DEADLINE = 10.0  # seconds to begin one, or to have it end
DOUBLED = 100  # letters that a killed broker admin may leave in both queues: the last two batches
OUTCOMES = ("done", "gone", "refused", "unsure")

log = logging.getLogger("mqworker.service.bulk_operations")


class BulkOperations:
    """See the module head."""

    def __init__(self, broker_admin: BrokerAdminClient) -> None:
        self.all: tuple[BulkView, ...] = ()  # the oldest first
        self.counts: Mapping[tuple[str, str, str], int] = {}  # letters, by stage, kind and outcome
        self._broker_admin = broker_admin
        broker_admin.on_progress = self._progress
        broker_admin.on_end = self._admin_ended

    async def begin(self, stage: str, selection: str, kind: str, count: int, by: str) -> BulkView:
        """Begin to replay or drop what is selected; asked again for the same selection, it is the first one's."""
        name, now = secrets.token_hex(6), time.time()
        view = BulkView(name, "looking", stage, kind, by, 0, 0, count, 0, 0, 0, "", now, now)
        self._put(view)
        question = {"stage": stage, "selection": selection, "kind": kind, "count": count, "operation": name}
        try:
            begun = await self._broker_admin.ask("dlq_begin", question, DEADLINE)
        except BaseException:
            self._remove(name)
            raise
        if begun != name:
            self._remove(name)
            if (before := self._get(begun)) is not None:
                return before
            raise ControlError("unknown_operation", "the operation of this selection has ended long ago")
        what = f"{kind} of {count} dead letters of stage {stage} has begun (operation {name})"
        logs.report(log, logging.INFO, "bulk_started", what, stage_name=stage, operation=name, kind=kind, count=count)
        return self._get(name) or view

    async def cancel(self, operation: str) -> BulkView:
        """End an operation before its next batch; one that has ended stays as it is."""
        found = self._get(operation)
        if found is None:
            raise ControlError("unknown_operation", f"there is no operation {operation!r}")
        if not found.over:
            await self._broker_admin.ask("dlq_cancel", {"operation": operation}, DEADLINE)
        return self._get(operation) or found

    # -- inside

    def _progress(self, told: AdminProgress) -> None:
        found = self._get(told.operation)
        if found is None or found.over:
            return
        changes = {name: getattr(told, name) for name in told.__struct_fields__}
        self._advance(found, msgspec.structs.replace(found, **changes))

    def _admin_ended(self, why: str) -> None:
        for view in self.all:
            if not view.over:
                unsure = min(DOUBLED, view.done + view.unsure) if view.kind == "replay" else 0
                failed = msgspec.structs.replace(view, state="failed", reason=why, unsure=unsure, at=time.time())
                self._advance(view, failed)

    def _advance(self, old: BulkView, new: BulkView) -> None:
        self._put(new)
        self._count("done", new, new.done - old.done)
        if not new.over:
            return
        for outcome in OUTCOMES[1:]:
            self._count(outcome, new, getattr(new, outcome))
        failed = new.state == "failed"
        done = "replayed" if new.kind == "replay" else "dropped"
        what = f"{new.kind} of {new.wanted} dead letters of stage {new.stage}: {new.state}, {new.done} {done}"
        if new.gone:
            what += f", {new.gone} were not there any more"
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
