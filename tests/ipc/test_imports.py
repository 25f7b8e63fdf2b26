"""What a child imports, and garbage."""

import gc
import sys

import msgspec

from mqworker.ipc.admin_messages import AdminAnswer
from mqworker.ipc.child import Child
from mqworker.ipc.frames import pack, write_all
from mqworker.ipc.records import LogEvent
from mqworker.ipc.spawn import Spawned
from tests.support.loop import on_loop

DEADLINE = 20.0
_decoder = msgspec.msgpack.Decoder(AdminAnswer | LogEvent)


class Telling(Spawned):
    """Says whether it collects garbage, and in how many modules it would look for it."""

    title = "mqw-test"

    def main(self):
        searched = {id(each) for each in gc.get_objects()}
        modules = sum(id(module.__dict__) in searched for module in list(sys.modules.values()))
        write_all(self.up.fileno(), pack(msgspec.msgpack.encode(AdminAnswer(1, [gc.isenabled(), modules]))))


@on_loop
async def test_a_child_collects_garbage_but_not_in_what_it_has_imported():
    """The collector rests while a child imports, works when it works, and is never held up by modules."""
    said = []
    child = Child(_decoder, said.append, lambda _death: None, said.append)
    child.start(Telling("telling"))
    assert await child.wait(DEADLINE)
    assert said == [AdminAnswer(1, [True, 0])]
