"""A session of a Link on the broker's file: from opening it until it is closed or fails.

Runs in the Link's writer thread; owns the open file, the registration under which messages are leased, and the messages
behind the tags. Each `run` is one transaction, and changes memory only after the commit; so if it raises, nothing has
happened (except perhaps after `Unsure`).
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mqworker.brokers.base import Delivery, Publication, Sink, Topology
from mqworker.brokers.sqlite import sole_consumer, store
from mqworker.brokers.sqlite.file import File, Unusable

Call = Callable[[], None]


class PublishCommand(NamedTuple):
    """Command: store all of these or none; `era` counts how often unanswered publications were reported as lost."""

    publish_ids: tuple[int, ...]
    publications: tuple[Publication, ...]
    era: int


class AckCommand(NamedTuple):
    """Command: settle one delivery, or all up to it; a command of an older epoch never reaches a session."""

    epoch: int
    tag: int
    multiple: bool


class Release(NamedTuple):
    """Command: return deliveries."""

    epoch: int
    tags: tuple[int, ...]


Command = PublishCommand | AckCommand | Release


class _Changes:
    """The effects of one transaction, applied to memory after the commit."""

    def __init__(self) -> None:
        self.settled: dict[int, int] = {}  # tag to message
        self.released: dict[int, int] = {}
        self.confirmed: list[int] = []
        self.refused: list[tuple[int, store.Refused]] = []


class Session:
    """One open file, one registered owner, one epoch."""

    def __init__(self, path: Path, topology: Topology, sink: Sink, name: str, epoch: int) -> None:
        self.epoch = epoch
        self.depth = 0
        self.consuming = False  # as registered
        self.waits = ""  # which other consumer it waits for, if the stage is ordered
        self._path, self._topology, self._sink = path, topology, sink
        self._held: dict[int, int] = {}  # tag to message; tags only grow, so they are in order
        self._tag = 0
        self.chores = False  # the next `run` does them; they always write, which also tests the disk
        self._changed = True  # `depth` may be outdated
        self._count_from = 0.0  # when to count again
        self._count_other_from: dict[str, float] = {}  # the same for other queues, by their names
        self._takeable = True  # there may be messages to take
        self._file = File(path)
        try:
            self._seen = self._data_version()
            with self._file.transaction() as db:
                self._owner = store.add_owner(db, name)
                self._do_chores(db)
        except BaseException:
            self._file.close()
            raise

    def _data_version(self) -> int:
        return int(self._file.db.execute("PRAGMA data_version").fetchone()[0])

    def notice_writes(self) -> bool:
        """Return whether another process has written since the last call."""
        before, self._seen = self._seen, self._data_version()
        changed = before != self._seen
        self._takeable = self._takeable or changed
        self._changed = self._changed or changed
        return changed

    def tick(self) -> None:
        """Check whether there are chores, which the next `run` does."""
        db = self._file.db
        self._file.check_in_place()
        self.chores = self.chores or (
            not store.has_owner(db, self._owner)
            or bool(store.dead_owners(db))
            or store.has_due(db)
            or not store.is_declared(db, self._topology)
        )
        if self.waits and not any(other.alive for other in sole_consumer.others(db, self._topology.input, self._owner)):
            self.waits = ""
        self._count()

    @property
    def at_rest(self) -> bool:
        """Whether another owner may consume in this one's place."""
        return not (self.consuming or self._held)

    def _count(self) -> None:
        """Count the ready messages if their number may have changed; spends at most a hundredth of the time on it."""
        began = time.monotonic()
        if not self._changed or began < self._count_from:
            return
        queue = store.queue_id(self._file.db, self._topology.input)
        self.depth = 0 if queue is None else store.count_ready(self._file.db, queue)
        self._changed = False
        self._count_from = began + 100 * (time.monotonic() - began)

    def count_output(self) -> int | None:
        """Count the ready messages of the output queue; None when it is too early to spend time on it again."""
        output = self._topology.output
        return None if output is None else self._count_other(output.queue)

    def count_dead(self) -> int | None:
        """Count the dead letters; None as for `count_output`."""
        return self._count_other(self._topology.dead)

    def _count_other(self, name: str) -> int | None:
        began = time.monotonic()
        if began < self._count_other_from.get(name, 0.0):
            return None
        queue = store.queue_id(self._file.db, name)
        depth = 0 if queue is None else store.count_ready(self._file.db, queue)
        self._count_other_from[name] = began + 100 * (time.monotonic() - began)
        return depth

    def has_work(self, prefetch: int) -> bool:
        """Return whether `run` has something to do even without commands."""
        if self.chores:
            return True
        if self.waits and prefetch:
            return False  # until the next tick
        if self.consuming != bool(prefetch):
            return True
        if prefetch <= len(self._held) or not self._takeable:
            return False
        self._takeable = store.has_ready(self._file.db, self._topology.input)
        return self._takeable

    def run(self, commands: Iterable[Command], prefetch: int, *, end: bool = False) -> list[Call]:
        """Do everything in one transaction; returns the calls that report it to the Sink.

        `end`: end the epoch after the commands, and begin the next one.
        """
        changes = _Changes()
        with self._file.transaction() as db:
            if not store.has_owner(db, self._owner):
                raise Unusable(f"the leases in {self._path} were taken away: do all its users share one /proc?")
            if self.chores:
                self._do_chores(db)
            waits = ""
            if prefetch and self._topology.ordered:
                waits = sole_consumer.wait_for(db, self._topology.input, self._owner)
                prefetch = 0 if waits else prefetch
            if self.consuming != bool(prefetch):
                name = self._topology.input if prefetch else None
                db.execute("UPDATE owner SET consumes = ? WHERE id = ?", (name, self._owner))
            for command in commands:
                self._do(db, command, changes)
            if end:
                self._settle(tuple(self._held), changes.released, changes)
            store.remove(db, list(changes.settled.values()))
            store.release(db, changes.released.values())
            room = prefetch - len(self._held) + len(changes.settled) + len(changes.released)
            taken = store.take(db, self._topology.input, room, self._owner) if room > 0 else []
        self.consuming, self.waits = bool(prefetch), waits
        self._takeable = self.chores = False
        self._changed = True
        return self._apply(changes, taken, prefetch, end=end)

    def _do_chores(self, db: sqlite3.Connection) -> None:
        for owner in store.dead_owners(db):
            store.remove_owner(db, owner)
        store.declare(db, self._topology)
        store.move_due(db)
        db.execute("UPDATE owner SET seen = ? WHERE id = ?", (time.time(), self._owner))

    def _do(self, db: sqlite3.Connection, command: Command, changes: _Changes) -> None:
        if isinstance(command, PublishCommand):
            try:
                store.publish_together(db, command.publications)
            except store.Refused as refusal:
                changes.refused += [(publish_id, refusal) for publish_id in command.publish_ids]
                return
            changes.confirmed += command.publish_ids
            settles = command.publications[0].settles
            if settles is not None:
                epoch, tag = settles
                self._settle((tag,) if epoch == self.epoch else (), changes.settled, changes)
        elif isinstance(command, AckCommand):
            tags = self._up_to(command.tag) if command.multiple else (command.tag,)
            self._settle(tags, changes.settled, changes)
        else:
            self._settle(command.tags, changes.released, changes)

    def _up_to(self, last: int) -> list[int]:
        tags = []
        for tag in self._held:
            if tag > last:
                break
            tags.append(tag)
        return tags

    def _settle(self, tags: Sequence[int], into: dict[int, int], changes: _Changes) -> None:
        for tag in tags:
            message = self._held.get(tag)  # None if a result has already settled it
            if message is not None and tag not in changes.settled and tag not in changes.released:
                into[tag] = message

    def _apply(self, changes: _Changes, taken: list[store.Taken], prefetch: int, *, end: bool) -> list[Call]:
        for tag in (*changes.settled, *changes.released):
            del self._held[tag]
        calls: list[Call] = []
        if changes.confirmed:
            calls.append(partial(self._sink.confirmed, changes.confirmed))
        for publish_id, refusal in changes.refused:
            calls.append(partial(self._sink.refused, publish_id, str(refusal), too_large=refusal.too_large))
        if end:
            calls.append(partial(self._sink.consuming_lost, self.epoch, ""))
            self.epoch, self._tag = self.epoch + 1, 0
        for row in taken:
            self._tag += 1
            self._held[self._tag] = row.id
            delivery = Delivery(
                self.epoch, self._tag, row.properties, row.body, bool(row.redelivered), row.exchange, row.routing_key
            )
            calls.append(partial(self._sink.delivered, delivery))
        # `take` may have stopped early, or there was no room, so nothing was looked for
        self._takeable = bool(taken) or len(self._held) >= prefetch
        return calls

    def finish(self) -> None:
        """Give all leases back; afterwards the session can only be closed."""
        with self._file.transaction() as db:
            store.remove_owner(db, self._owner)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
