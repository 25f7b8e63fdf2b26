"""Requests to the broker admin about dead letters: lists, groups, single letters, selections, operations.

Runs in the broker admin, on its loop. Owns the selections; `letter_operations` has the operations. Each verb takes its
deadline in seconds as its first argument and returns plain values; it raises what `verbs` raises, and VerbRefused.
"""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from mqworker.broker_admin import dead_letters
from mqworker.broker_admin.batches import Batches
from mqworker.broker_admin.bulk import TOGETHER
from mqworker.broker_admin.catalogue import Catalogue
from mqworker.broker_admin.chooser import Chooser
from mqworker.broker_admin.letter_edit import LetterEdit, edited
from mqworker.broker_admin.letter_filter import fault_of, matcher
from mqworker.broker_admin.letter_groups import groups, largest
from mqworker.broker_admin.letter_looks import LetterLooks
from mqworker.broker_admin.letter_operations import LetterOperations
from mqworker.broker_admin.letter_rows import Seen, seen
from mqworker.broker_admin.queue_locks import LEAST, QueueLocks
from mqworker.broker_admin.refused import VerbRefused
from mqworker.broker_admin.selections import Selection, Selections
from mqworker.brokers.base import (
    DROP,
    STOP,
    Admin,
    BrokerBrokeOff,
    BrokerRefused,
    BrokerUnavailable,
    Publication,
    Wanted,
)
from mqworker.config.model import Config
from mqworker.ipc.admin_messages import LOOK_AT, AdminProgress, LetterFilter

WHOLE = 30 << 20  # bytes of a letter that is shown with its body; over HTTP it becomes several times as large

log = logging.getLogger("mqworker.broker_admin.letter_verbs")


class LetterVerbs:
    """See the module head."""

    def __init__(self, config: Config, admin: Admin, locks: QueueLocks, tell: Callable[[AdminProgress], None]) -> None:
        """`tell` receives the progress of operations."""
        self._config = config
        self._admin = admin
        self._looks = LetterLooks(admin, locks)
        self._selections = Selections()
        self._operations = LetterOperations(admin, self._looks, tell)

    def forget(self, queue: str) -> None:
        """Forget what was seen in a queue, because letters were removed."""
        self._looks.catalogues.forget(queue)

    async def dlq_list(
        self,
        deadline: float,
        stage: str,
        limit: int = 100,
        after: int = 0,
        fresh: float | None = None,
        chosen: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return dead letters that fit a filter, the oldest first, from number `after` on."""
        found = await self._looks.catalogue(self._dead(stage), deadline, fresh)
        fitting = _fitting(found, chosen)
        page = [msgspec.to_builtins(each.row) for each in fitting[after : after + limit]]
        following = after + len(page)
        answer = {
            "dead_letters": page,
            "matched": len(fitting),
            "next": following if following < len(fitting) else None,
        }
        return answer | self._about(stage, found)

    async def dlq_groups(
        self, deadline: float, stage: str, fresh: float | None = None, chosen: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the largest groups of the dead letters that fit a filter; `other` counts the letters in the others."""
        found = await self._looks.catalogue(self._dead(stage), deadline, fresh)
        made, other = largest(groups((each.row for each in _fitting(found, chosen)), time.time()))
        return {"groups": made, "other": other, **self._about(stage, found)}

    async def dlq_show(
        self, deadline: float, stage: str, ids: list[str], *, preview: bool = False
    ) -> list[dict[str, Any]]:
        """Return the dead letters with these ids in full, as far as they exist; fewer if they are large.

        A letter whose body is too large to return has `too_large` instead.
        """
        found = await self._looks.contents(self._dead(stage), deadline, ids)
        letters = []
        for properties, body, equal in found.values():
            letter = dead_letters.describe(properties, body, whole=True, preview=preview) | {"equal": equal}
            if preview:
                row = seen(properties, body).row
                letter |= {"place": row.place, "fault": fault_of(row)}
            if len(body) > WHOLE:
                letter |= {"body": b"", "too_large": True}
            letters.append(letter)
        return letters

    async def dlq_find(self, deadline: float, message_id: str, *, look: bool = False) -> dict[str, Any]:
        """Return the dead letters with this message id, of all stages, as they were last seen or after a new look.

        `ages`: how many seconds ago the look was, by stage; a stage is missing if there was no look, if the look
        failed, or if the queue has more letters than were examined. If all looks fail, raises what they raise.
        """
        end, found, ages = time.monotonic() + deadline, [], {}
        failure: Exception | None = None
        for stage, config in self._config.stages.items():
            known = self._looks.catalogues.get(config.dead)
            if look:
                try:
                    known = await self._looked(config.dead, max(LEAST, end - time.monotonic()))
                except (BrokerUnavailable, BrokerRefused, TimeoutError) as error:
                    known, failure = None, error
            if known is not None:
                if known.complete:
                    ages[stage] = time.monotonic() - known.at
                rows = [each.row for each in known.letters if each.row.message_id == message_id]
                found += [{"stage": stage, **msgspec.to_builtins(row)} for row in rows]
        if failure is not None and not ages and not found:
            raise failure
        return {"letters": found, "ages": ages}

    async def dlq_select(self, deadline: float, stage: str, chosen: dict[str, Any]) -> dict[str, Any]:
        """Select the dead letters that fit a filter; not `complete` while an operation hides what came since a look."""
        found = await self._looks.catalogue(self._dead(stage), deadline)
        complete = found.complete and not self._looks.taken_from(self._dead(stage))
        selection = Selection(stage, (each.row for each in _fitting(found, chosen)))
        name = self._selections.add(selection, time.monotonic())
        answer = {"selection": name, "count": selection.count, "oldest": selection.oldest, "newest": selection.newest}
        return answer | {"complete": complete}

    async def dlq_selected(self, deadline: float, stage: str, selection: str) -> list[str]:  # noqa: ARG002 - it waits for nothing
        """Return the ids of all letters of a selection; equal letters each have an entry."""
        return self._selection(selection, stage).ids

    async def dlq_begin(
        self,
        deadline: float,  # noqa: ARG002 - the operation has a deadline of its own
        stage: str,
        selection: str,
        kind: str,
        count: int,
        operation: str,
    ) -> str:
        """Begin to replay or drop what is selected; returns the operation's name, that of the first one if repeated."""
        chosen = self._selection(selection, stage)
        if count != chosen.count:
            raise VerbRefused("count", f"{chosen.count} dead letters are selected, not {count}")
        to = self._config.stages[stage].input.queue if kind == "replay" else ""
        return self._operations.begin(operation, kind, chosen, self._dead(stage), to)

    async def dlq_cancel(self, deadline: float, operation: str) -> bool:  # noqa: ARG002 - as above
        """End an operation before its next batch; returns False if it has ended already."""
        return self._operations.cancel(operation)

    async def dlq_edit(self, deadline: float, stage: str, letter: str, body: bytes, changes: dict[str, Any]) -> int:
        """Send one dead letter back with another body and other changes; returns 0 if it is not there."""
        new = body
        queue = self._config.stages[stage].input.queue
        asked = msgspec.convert(changes, LetterEdit)

        def wanted(properties: bytes, body: bytes) -> Publication | None:
            if dead_letters.letter_id(properties, body) != letter:
                return None
            return edited(dead_letters.replay(properties, body, queue), new, asked)

        return await self._move(stage, wanted, deadline, 1)

    async def dlq_replay(
        self,
        deadline: float,
        stage: str,
        ids: list[str] | None = None,
        reason: str = "",
        limit: int = LOOK_AT,
        *,
        dry: bool = False,
    ) -> int:
        """Send dead letters back to the input (those named, those of one reason, or all); returns how many."""
        queue = self._config.stages[stage].input.queue
        chooser = Chooser(ids, reason, limit)
        sent: set[bytes] = set()  # the digests that they will have if they die again before this is over
        if dry:
            for each in (await self._looks.catalogue(self._dead(stage), deadline)).letters:
                chooser.takes(each.row.id, each.row.reason)
            return limit - chooser.left

        def wanted(properties: bytes, body: bytes) -> Publication | str | None:
            if not chooser.left:
                return STOP
            if dead_letters.lineage(properties, body) in sent or not chooser.chosen(properties, body):
                return None
            try:
                back = dead_letters.replay(properties, body, queue)
            except ValueError as error:
                log.warning("a dead letter stays: %s", error, extra={"event": "letter_refused"})
                return None
            sent.add(dead_letters.lineage(properties, body, later=1))
            return back

        return await self._move(stage, wanted, deadline, limit)

    async def dlq_drop(
        self, deadline: float, stage: str, ids: list[str] | None = None, reason: str = "", limit: int = LOOK_AT
    ) -> int:
        """Remove dead letters for good; returns how many."""
        chooser = Chooser(ids, reason, limit)

        def wanted(properties: bytes, body: bytes) -> str | None:
            if not chooser.left:
                return STOP
            return DROP if chooser.chosen(properties, body) else None

        return await self._move(stage, wanted, deadline, limit, published=False)

    # -- inside

    def _dead(self, stage: str) -> str:
        return self._config.stages[stage].dead

    async def _looked(self, queue: str, deadline: float) -> Catalogue:
        """Return the dead letters of a queue after a look; a queue that does not exist yet has none."""
        if await self._admin.queue(queue, deadline) is None:
            return Catalogue([], time.monotonic(), time.time(), complete=True)
        return await self._looks.catalogue(queue, deadline)

    def _selection(self, name: str, stage: str) -> Selection:
        found = self._selections.get(name, stage, time.monotonic())
        if found is None:
            raise VerbRefused("unknown_selection", f"there is no selection {name!r}, or it has expired: select again")
        return found

    def _about(self, stage: str, found: Catalogue) -> dict[str, Any]:
        moment = datetime.fromtimestamp(found.wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        looking = self._looks.looking(self._dead(stage))
        return {"total": len(found.letters), "as_of": moment, "complete": found.complete, "looking": looking}

    async def _move(self, stage: str, wanted: Wanted, deadline: float, most: int, *, published: bool = True) -> int:
        """Move letters while the caller waits; `published`: they go to a queue, so a failure may leave some in both."""
        queue = self._dead(stage)
        async with self._looks.alone(queue, deadline) as left:
            moving = Batches()
            try:
                return await self._admin.move(queue, LOOK_AT, wanted, left, most=most, together=TOGETHER, moving=moving)
            except (BrokerUnavailable, BrokerBrokeOff) as error:
                raise type(error)(f"{error}{moving.suffix(published)}") from error
            except BrokerRefused as error:
                raise BrokerRefused(f"{error}{moving.suffix(published, refused=True)}") from error
            except TimeoutError:
                what = f"it did not end within {deadline:g} s{moving.suffix(published)}"
                raise VerbRefused("deadline", what) from None
            finally:
                self._looks.catalogues.forget(queue)


def _fitting(catalogue: Catalogue, chosen: dict[str, Any] | None) -> list[Seen]:
    """Return the letters that fit a filter; raises VerbRefused for an invalid one."""
    asked = msgspec.convert(chosen or {}, LetterFilter)
    try:
        fits = matcher(asked)
    except ValueError as error:
        raise VerbRefused("filter", str(error)) from None
    return [each for each in catalogue.letters if fits(each)][: asked.limit]
