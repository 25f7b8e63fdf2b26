"""The Service's table of operations on dead letters."""

import asyncio

import pytest

from mqworker.control.errors import ControlError
from mqworker.ipc.admin_messages import AdminProgress
from mqworker.service.bulk_operations import DOUBLED, ENDED, BulkOperations
from tests.support.loop import on_loop


class Admin:
    """A broker admin that begins everything, and reports nothing by itself."""

    def __init__(self) -> None:
        self.asked = []
        self.before = ""
        self.alive = self.at_work = True
        self.late = asyncio.Event()  # answers to `dlq_begin` wait for it
        self.late.set()
        self.refusal = None

    async def ask(self, verb, arguments, deadline):
        self.asked.append((verb, arguments))
        if verb == "dlq_cancel":
            return self.at_work
        await self.late.wait()
        if self.refusal is not None:
            raise self.refusal
        if arguments.get("count") == 0:
            raise ControlError("count", "another number")
        return self.before or arguments["operation"]


def told(operation: str, state: str, done: int = 0, **more) -> AdminProgress:
    values = {"looked": 9, "wanted": 500, "gone": 0, "unsure": 0, "refused": 0, "reason": "", "at": 1.0}
    return AdminProgress(operation=operation, state=state, done=done, **(values | more))


@on_loop
async def test_progress_is_shown_and_counted_until_the_end():
    """What comes after the end changes nothing; what nobody has begun is no operation."""
    admin = Admin()
    bulk = BulkOperations(admin)
    begun = await bulk.begin("s", "sel", "replay", 500, "token")
    assert (begun.state, begun.wanted, begun.by) == ("looking", 500, "token")
    for progress in (
        told(begun.operation, "moving", 100, unsure=50),
        told(begun.operation, "done", 498, gone=2),
        told(begun.operation, "moving", 499),
        told("unknown", "done", 7),
    ):
        admin.on_progress(progress)
    (view,) = bulk.all
    assert (view.state, view.done, view.gone, view.unsure, view.stage) == ("done", 498, 2, 0, "s")
    assert bulk.counts == {("s", "replay", "done"): 498, ("s", "replay", "gone"): 2}
    assert await bulk.cancel(begun.operation) == view
    assert [verb for verb, _ in admin.asked] == ["dlq_begin"]


@on_loop
async def test_the_death_of_the_broker_admin_fails_what_was_at_work():
    """Up to the last two batches of a replay may be in both queues, nothing of a drop; what has ended stays."""
    admin = Admin()
    bulk = BulkOperations(admin)
    for kind, state, done in (
        ("replay", "moving", 450),
        ("replay", "moving", 10),
        ("drop", "moving", 99),
        ("drop", "done", 5),
    ):
        begun = await bulk.begin("s", "sel", kind, 500, "")
        admin.on_progress(told(begun.operation, state, done))
    admin.on_end("it was killed")
    why = "it was killed"
    assert [(view.state, view.unsure, view.reason) for view in bulk.all] == [
        *(("failed", DOUBLED, why), ("failed", 10, why), ("failed", 0, why), ("done", 0, "")),
    ]
    assert bulk.counts["s", "replay", "unsure"] == DOUBLED + 10


@on_loop
async def test_what_cannot_begin_leaves_nothing():
    """A refusal is passed on; asked twice for one selection, there is one operation."""
    admin = Admin()
    bulk = BulkOperations(admin)
    with pytest.raises(ControlError, match="another number"):
        await bulk.begin("s", "sel", "replay", 0, "")
    assert bulk.all == ()
    first = await bulk.begin("s", "sel", "replay", 500, "")
    admin.before = first.operation
    assert await bulk.begin("s", "sel", "replay", 500, "") == first
    assert bulk.all == (first,)
    with pytest.raises(ControlError, match=r"no operation .* `mqworker operations list`"):
        await bulk.cancel("unknown")
    await bulk.cancel(first.operation)
    assert admin.asked[-1] == ("dlq_cancel", {"operation": first.operation})


@on_loop
async def test_the_table_is_bounded():
    """Of those that have ended the last 50 are kept, and all that are at work."""
    admin = Admin()
    bulk = BulkOperations(admin)
    at_work = await bulk.begin("s", "sel", "drop", 500, "")
    for _ in range(ENDED + 5):
        ended = await bulk.begin("s", "sel", "drop", 500, "")
        admin.on_progress(told(ended.operation, "cancelled"))
    assert len(bulk.all) == ENDED + 1
    assert bulk.all[0] == at_work


@on_loop
async def test_what_is_begun_late_is_not_forgotten():
    """Whoever asked has given up by then: it is shown, and so is its end; a late refusal leaves nothing."""
    for refusal, states in ((None, ["cancelled"]), (ControlError("busy", "4 are at work"), [])):
        admin = Admin()
        admin.late.clear()
        admin.refusal = refusal
        bulk = BulkOperations(admin)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await bulk.begin("s", "sel", "replay", 500, "")
        (view,) = bulk.all
        admin.late.set()
        await asyncio.gather(*bulk._beginning, return_exceptions=True)
        admin.on_progress(told(view.operation, "cancelled", 50))
        assert [each.state for each in bulk.all] == states


@pytest.mark.parametrize(
    ("kind", "alive", "at_work", "state"),
    [
        ("deadline", True, True, "looking"),
        ("deadline", True, False, "failed"),
        ("unavailable", False, False, "failed"),
        ("unknown_selection", True, False, None),
    ],
)
@on_loop
async def test_without_an_answer_an_operation_is_ended_and_shown_as_long_as_it_may_be_at_work(
    kind, alive, at_work, state
):
    """It is asked to end; where it has not begun it has failed; after a refusal there is none."""
    admin = Admin()
    admin.refusal, admin.alive, admin.at_work = ControlError(kind, "no answer"), alive, at_work
    bulk = BulkOperations(admin)
    with pytest.raises(ControlError, match="no answer"):
        await bulk.begin("s", "sel", "replay", 500, "")
    assert [view.state for view in bulk.all] == ([state] if state else [])
    assert ("dlq_cancel" in [verb for verb, _ in admin.asked]) == (kind == "deadline")


@on_loop
async def test_at_the_end_of_the_service_what_is_at_work_is_ended_and_waited_for():
    """Nothing begins any more; what ends in time has not failed; the patience is bounded."""
    admin = Admin()
    bulk = BulkOperations(admin)
    begun = await bulk.begin("s", "sel", "replay", 500, "")
    bulk.end()
    with pytest.raises(ControlError, match="is ending"):
        await bulk.begin("s", "other", "replay", 500, "")
    await bulk.ended(0.01)
    assert admin.asked[1:] == [("dlq_cancel", {"operation": begun.operation})]
    waiting = asyncio.create_task(bulk.ended(60))
    await asyncio.sleep(0)
    admin.on_progress(told(begun.operation, "cancelled", 50))
    await asyncio.wait_for(waiting, 10)
    admin.on_end("the service ends")
    assert [view.state for view in bulk.all] == ["cancelled"]


@on_loop
async def test_a_killed_admin_of_the_embedded_broker_doubles_nothing():
    """A transaction is done or not: none may be in both queues."""
    admin = Admin()
    bulk = BulkOperations(admin, doubles=False)
    begun = await bulk.begin("s", "sel", "replay", 500, "")
    admin.on_progress(told(begun.operation, "moving", 450))
    admin.on_end("it was killed")
    assert [(view.state, view.done, view.unsure) for view in bulk.all] == [("failed", 450, 0)]
