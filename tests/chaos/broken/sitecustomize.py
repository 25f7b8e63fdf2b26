"""Breaks mqworker on purpose, for the negative controls of the campaign: a checker that cannot fail proves nothing.

Python imports this first in the service under test and in each process that it spawns, because the control puts this
folder on PYTHONPATH. CHAOS_BROKEN names what is broken; each patch is applied right after its module was imported.
"""

import importlib.abc
import importlib.util
import os
import sys
import time
from multiprocessing.connection import Connection, reduce_connection
from multiprocessing.reduction import ForkingPickler

MOST_AHEAD = 3  # chunks in a lane


def ack_before_confirm(module):
    """A result counts as placed once it is sent."""
    publish = module.Publications._publish

    def placed_at_once(self, entry, now):
        actions = publish(self, entry, now)
        for action in actions:
            if self._waiting.pop(action.publish_id, None) is not None:
                entry.left.clear()
                entry.asked = 0
                self._open -= 1
                self._settle(entry, now)
        return actions

    module.Publications._publish = placed_at_once


def mandatory_off(module):
    """The broker may drop what has no route."""
    encode = module.encode_publish
    module.encode_publish = lambda *arguments, mandatory, **more: encode(*arguments, mandatory=False, **more)


def epochs_off_ledger(module):
    """Deliveries stay valid when their connection is lost."""
    module.Ledger.consuming_lost = lambda self, now: None


def epochs_off_consuming(module):
    """Any tag is acked on whatever channel is open."""

    def ack(self, epoch, tag, *, multiple):
        current = None if self._current is None else self._current.consumer
        if current is not None and current.channel.usable:
            current._unsettled.pop(tag, None)
            current.channel.raw.basic_ack(tag, multiple)
            current._settled()

    module.Consuming.ack = ack


def deadlines_off_wire(module):
    """An answer may take for ever."""
    module.AmqpConnection.check_deadlines = lambda self, now: None


def deadlines_off_publishing(module):
    """A confirm may take for ever."""
    module.Publishing.check_deadlines = lambda self, now: None


def deadlines_off_address(module):
    """No heartbeats."""
    parameters = module.parameters

    def without_heartbeat(*arguments, **more):
        made = parameters(*arguments, **more)
        made.heartbeat = 0
        return made

    module.parameters = without_heartbeat


class _KeptConnection(Connection):
    """A pipe end that more than one lane uses."""

    def close(self):
        pass


def shared_queue(module):
    """All Consumers read one queue: who is killed while it waits takes the lock along."""
    ForkingPickler.register(_KeptConnection, reduce_connection)
    context, shared = module.SPAWN, []

    class Shared:
        def JoinableQueue(self, _size):  # noqa: N802 - what multiprocessing calls it
            if not shared:
                shared.append(context.JoinableQueue(64))
                shared[0]._reader = _KeptConnection(os.dup(shared[0]._reader.fileno()))
            return shared[0]

        def __getattr__(self, name):
            return getattr(context, name)

    module.SPAWN = Shared()
    module.LaneQueue.close = module.LaneQueue.unlink_semaphores = lambda self: None


def put_ahead_queue(module):
    """There is room in a lane for more than one chunk."""
    module.CHUNKS = 64


def put_ahead_lane(module):
    """A lane takes the next chunk before its Consumer has taken the last one."""
    module.Lane.open = property(lambda self: self.state == "busy" and self.chunk - self.ended < MOST_AHEAD)


def slow_task_done(module):
    """Breaks nothing: stays long where a kill hurts most, inside `task_done` with the condition held."""
    done = module.JoinableQueue.task_done

    def slow(self):
        with self._cond:
            time.sleep(0.02)
            done(self)

    module.JoinableQueue.task_done = slow


def out_of_turn(module):
    """Whoever has a plan publishes."""
    module.Ordering.is_turn = lambda self, entry: True


def side_by_side(module):
    """Several messages of a key are computed at a time."""
    prepare = module.Ordering.__init__

    def never_serial(self, *arguments, **more):
        prepare(self, *arguments, **more)
        self.serial = False

    module.Ordering.__init__ = never_serial


def not_alone_declared(module):
    """The input of an ordered stage is a queue like any other."""
    module.SINGLE_ACTIVE = "x-of-no-effect"


def not_alone_consuming(module):
    """An ordered stage consumes beside others."""

    async def at_once(self, connection, found):
        return True

    module.SoleConsumer.may_consume = at_once


def state_before_lines(module):
    """How far a run is gets stored before what it has written."""
    store = module.MapFiles.store

    def early(self, portion):
        self._save(module.replace(self.state, place=portion.place))
        time.sleep(0.8)
        store(self, portion)

    module.MapFiles.store = early


def files_not_cut(module):
    """A run goes on behind whatever the one before has written, which may be more than it has stored."""

    def end_of(path, _length, **_options):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)

    sync = module._OutFile.sync

    def late(self):
        time.sleep(0.5)
        sync(self)

    module._open, module._OutFile.sync = end_of, late


PATCHES = {
    "ack-before-confirm": {"mqworker.producer.publications": ack_before_confirm},
    "mandatory-off": {"mqworker.brokers.rabbitmq.sender": mandatory_off},
    "epochs-off": {
        "mqworker.producer.ledger": epochs_off_ledger,
        "mqworker.brokers.rabbitmq.consuming": epochs_off_consuming,
    },
    "deadlines-off": {
        "mqworker.brokers.rabbitmq.amqp_connection": deadlines_off_wire,
        "mqworker.brokers.rabbitmq.publishing": deadlines_off_publishing,
        "mqworker.brokers.rabbitmq.address": deadlines_off_address,
    },
    "shared-queue": {"mqworker.producer.lane_queue": shared_queue},
    "put-ahead": {
        "mqworker.producer.lane_queue": put_ahead_queue,
        "mqworker.producer.lane": put_ahead_lane,
    },
    "release-out-of-turn": {"mqworker.producer.ordering": out_of_turn},
    "key-side-by-side": {"mqworker.producer.ordering": side_by_side},
    "no-single-consumer": {
        "mqworker.brokers.rabbitmq.topology": not_alone_declared,
        "mqworker.brokers.rabbitmq.sole_consumer": not_alone_consuming,
    },
    "state-before-lines": {"mqworker.mapping.files": state_before_lines},
    "files-not-cut": {"mqworker.mapping.files": files_not_cut},
    "slow-task-done": {"multiprocessing.queues": slow_task_done},
}


class Breaker(importlib.abc.MetaPathFinder):
    """Finds the modules to patch like any other importer, and patches them once they are loaded."""

    def __init__(self, patches):
        self._patches = patches

    def find_spec(self, name, path=None, target=None):
        patch = self._patches.pop(name, None)
        if patch is None:
            return None
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_patch(module):
            load(module)
            patch(module)

        spec.loader.exec_module = load_and_patch
        return spec


wanted = [name for name in os.environ.get("CHAOS_BROKEN", "").split(",") if name]
for name in wanted:
    for known in [known for known in PATCHES[name] if known in sys.modules]:
        PATCHES[name].pop(known)(sys.modules[known])
sys.meta_path.insert(0, Breaker({module: patch for name in wanted for module, patch in PATCHES[name].items()}))
