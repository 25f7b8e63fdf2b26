"""The Producer: one stage's process, parent of its Consumers.

Its main thread runs one asyncio loop with the stage (broker connections, ledger, lanes) and its timers; no user code
runs here, and no body is decoded. Receives its StageSpec once, then Orders, a Desired first; until that comes it has
imported what it needs, and does nothing. Sends Reports to the Service, at least once a second: that is its pulse. The
end of its pipe from the Service, or the death signal, means that the Service is gone: the Producer ends at once, and
the broker delivers its messages again. It also ends when its periodic work raises: the Service starts another. It ends
by `os._exit`, because an ordinary exit waits for children. All that is in `life`.
"""

import asyncio
import gc
import os
import signal
from multiprocessing.connection import Connection

import msgspec

from mqworker.ipc import imports
from mqworker.ipc.frames import read_frame
from mqworker.ipc.producer_messages import Desired
from mqworker.ipc.spawn import Spawned
from mqworker.ipc.stage_spec import StageSpec

# How many new objects there are when the garbage collector looks at them. With Python's 700 those of the messages in
# hand are looked at again and again; by then most are gone: 1.0 us of CPU time a message becomes 0.05.
YOUNG = 10_000


class Producer(Spawned):
    """See the module head."""

    title = "mqw-producer"
    deaf_to = (signal.SIGINT, signal.SIGTSTP, signal.SIGHUP)

    def __init__(self, stage: str, lock: Connection) -> None:
        super().__init__(f"{stage}.producer", stage)
        self._lock = lock  # the instance's lock file: the lock holds until no Producer has it open

    def load(self) -> None:
        """Import the stage, which the Service does not need."""
        from mqworker.brokers import load_link  # noqa: PLC0415 - the Service imports this module, and starts faster so
        from mqworker.producer.life import Life  # noqa: PLC0415 - as above

        self._life, self._load_link = Life, load_link

    def main(self) -> None:
        """Run the loop until the stage has ended."""
        gc.set_threshold(YOUNG)
        down = self.down.fileno()
        spec = msgspec.msgpack.decode(read_frame(down), type=StageSpec)
        with imports.importing():
            self._load_link(spec.broker)
        imports.settle()
        desired = msgspec.msgpack.decode(read_frame(down), type=Desired)
        asyncio.run(self._life(self.name, spec, desired, down, self.up.fileno()).live())
        os._exit(0)
