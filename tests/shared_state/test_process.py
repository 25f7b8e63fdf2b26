"""A shared object's process: served, killed, restarted, stopped, refused."""

import asyncio
import os
import resource
import stat
import threading
import time
from pathlib import Path

import msgspec
import pytest

from mqworker.errors import SharedCallError, SharedUnavailable
from mqworker.ipc import proc
from mqworker.ipc.child import living
from mqworker.ipc.frames import pack
from mqworker.ipc.generation import CodeCopy
from mqworker.shared_state import segments
from mqworker.shared_state.client import Argument
from mqworker.shared_state.execution import read_execution
from mqworker.shared_state.folder import EXECUTION, SOCKET, connect
from mqworker.shared_state.identity import message_key
from mqworker.shared_state.messages import (
    Call,
    Calls,
    Charge,
    ResetState,
    Resume,
    SettlementNotice,
    SharedEnded,
    StopSharing,
    TakeSnapshot,
)
from tests.support.children import end_children
from tests.support.loop import on_loop
from tests.support.shared_object import DEADLINE, Shared, client, in_thread
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def nothing_left():
    """After each test, what is left is ended; a test that has killed nothing may leave its object to this."""
    yield
    end_children()
    assert not living


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != EXECUTION}


def children_of(pid):
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def journal_of(folder):
    return max(path for path in folder.iterdir() if path.name.startswith("journal-"))


@on_loop
async def test_it_serves_and_tells(tmp_path):
    """Calls, what is remembered, what the object says of itself; nobody else can reach it."""
    shared = await Shared(tmp_path).start()
    caller = client(tmp_path, "m1")
    assert await in_thread(caller.call, "add", "a") == 1
    assert await in_thread(caller.call, "add", "b") == 2
    assert await in_thread(caller.call, "add", "a") == 1
    assert await in_thread(client(tmp_path).call, "get", "a") == 1
    await shared.until(lambda: shared.status.counts["calls"] == 4, "the calls to be told")
    status = shared.status
    assert status.counts["repeated"] == status.counts["without_id"] == 1
    assert status.remembered == status.kept == 1
    assert status.described == {"entries": 2, "wrong": 0}
    assert status.journaled == 4  # two calls that were remembered, one record that was met, one call without message
    assert stat.S_IMODE((shared.folder / SOCKET).stat().st_mode) == 0o600
    assert stat.S_IMODE(shared.folder.stat().st_mode) == 0o700


@on_loop
async def test_a_kill_costs_nothing_and_is_not_seen(tmp_path):
    """What was answered is there again, remembered, and a caller that waits meanwhile is answered."""
    shared = await Shared(tmp_path).start()
    waits = []
    caller = client(tmp_path, "m1", waits=waits.append)
    assert await in_thread(caller.call, "add", "a") == 1
    await shared.kill()
    waiting = asyncio.create_task(in_thread(caller.call, "add", "b"))
    await until(lambda: waits == [True], DEADLINE, "the caller to wait")
    shared = await shared.again()
    assert await waiting == 2
    assert waits == [True, False]
    assert shared.status.counts["replayed"] == 1
    assert shared.status.diverged == {}
    again = client(tmp_path, "m1")
    assert [await in_thread(again.call, "add", key) for key in "ab"] == [1, 2]
    assert await in_thread(client(tmp_path).call, "all") == {"a": 1, "b": 1}


@on_loop
async def test_a_call_that_kills_it_is_charged_and_harms_no_other(tmp_path):
    """The note names it; the next process does not make it again, and all others are answered."""
    shared = await Shared(tmp_path).start()
    fatal = asyncio.create_task(in_thread(client(tmp_path, "fatal").call, "die"))
    await until(lambda: shared.child.death, DEADLINE, "its death")
    innocent = asyncio.create_task(in_thread(client(tmp_path, "innocent").call, "add", "a"))
    found = read_execution(shared.folder / EXECUTION)
    assert found is not None
    assert (found.stage, found.message, found.method) == ("s", message_key("fatal", b"body"), "die")
    charge = Charge(found.stage, found.message, found.call, "the shared object died in this call")
    shared = await shared.again(charges=(charge,))
    assert await innocent == 1
    with pytest.raises(SharedUnavailable, match="died in this call"):
        await fatal
    assert read_execution(shared.folder / EXECUTION) is None


@on_loop
async def test_a_call_that_takes_too_long_is_seen_and_ended_from_outside(tmp_path):
    """While it runs, others see since when; after the kill the calls behind it are answered."""
    shared = await Shared(tmp_path).start()
    slow = asyncio.create_task(in_thread(client(tmp_path, "slow").call, "sleep", 600.0))
    await until(lambda: read_execution(shared.folder / EXECUTION), DEADLINE, "the call to begin")
    behind = asyncio.create_task(in_thread(client(tmp_path, "behind").call, "add", "a"))
    found = read_execution(shared.folder / EXECUTION)
    assert found is not None
    assert 0 <= time.monotonic() - found.started < DEADLINE
    await shared.kill()
    await shared.again(charges=(Charge(found.stage, found.message, found.call, "it took longer than 5 s"),))
    assert await behind == 1
    with pytest.raises(SharedUnavailable, match="longer than 5 s"):
        await slow


@on_loop
async def test_an_orderly_end_leaves_a_snapshot_and_nothing_to_replay(tmp_path):
    """The next process goes on from it, with all that is remembered."""
    shared = await Shared(tmp_path).start()
    assert await in_thread(client(tmp_path, "m1").call, "add", "a") == 1
    shared.child.send(StopSharing())
    assert (await shared.child.wait(DEADLINE)).code == 0
    assert shared.reports[-2] == SharedEnded()
    assert sorted(files(shared.folder)) == ["journal-0000000002", "lock", "snapshot-0000000002"]
    shared = await shared.again()
    assert shared.status.counts["replayed"] == 0
    assert shared.status.snapshot_age is not None
    assert await in_thread(client(tmp_path, "m1").call, "add", "a") == 1
    assert await in_thread(client(tmp_path).call, "all") == {"a": 1}


@on_loop
async def test_a_torn_tail_is_cut_and_what_came_before_stays(tmp_path):
    """A record that is there in part was answered to nobody."""
    shared = await Shared(tmp_path).start()
    for number in range(20):
        await in_thread(client(tmp_path, f"m{number}").call, "add", f"k{number}")
    await shared.kill()
    path = journal_of(shared.folder)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    shared = await shared.again()
    assert await in_thread(client(tmp_path).call, "all") == {f"k{number}": 1 for number in range(19)}
    assert await in_thread(client(tmp_path, "m19").call, "add", "k19") == 20
    await shared.kill()
    shared = await shared.again()
    assert await in_thread(client(tmp_path).call, "all") == {f"k{number}": 1 for number in range(20)}


@on_loop
async def test_damage_stops_it_and_deletes_nothing(tmp_path):
    """A changed byte before readable records, in the journal; any in a snapshot; a missing segment."""
    shared = await Shared(tmp_path).start()
    for number in range(5):
        await in_thread(client(tmp_path, f"m{number}").call, "add", f"k{number}")
    await shared.kill()
    path = journal_of(shared.folder)
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes((whole[100] ^ 1,)) + whole[101:])
    before = files(shared.folder)
    unfit = await Shared(tmp_path).refused()
    assert unfit.kind == "state"
    assert "damaged, and readable ones follow" in unfit.reason
    assert files(shared.folder) == before
    path.write_bytes(whole)
    shared = await shared.again()
    shared.child.send(StopSharing())
    await shared.child.wait(DEADLINE)
    path = shared.folder / segments.snapshot_name(2)
    whole = path.read_bytes()
    path.write_bytes(whole[:30] + bytes((whole[30] ^ 1,)) + whole[31:])
    assert "snapshot-0000000002 is damaged" in (await Shared(tmp_path).refused()).reason
    path.write_bytes(whole)
    journal_of(shared.folder).unlink()
    assert "is missing" in (await Shared(tmp_path).refused()).reason
    assert path.read_bytes() == whole


@on_loop
async def test_what_others_could_have_written_is_not_loaded(tmp_path):
    """A snapshot is unpickled: the folder and the file must be ours alone."""
    shared = await Shared(tmp_path).start()
    await in_thread(client(tmp_path, "m").call, "add", "a")
    shared.child.send(StopSharing())
    await shared.child.wait(DEADLINE)
    shared.folder.chmod(0o770)
    assert "open to other users" in (await Shared(tmp_path).refused()).reason
    shared.folder.chmod(0o700)
    path = shared.folder / segments.snapshot_name(2)
    path.chmod(0o644)
    assert "open to other users" in (await Shared(tmp_path).refused()).reason
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, 65534, -1)
        assert "another user" in (await Shared(tmp_path).refused()).reason


@on_loop
async def test_a_journal_that_cannot_be_written_ends_it_before_anybody_is_answered(tmp_path):
    """The disk is full: the call has no answer and no effect, and comes through when there is room again."""
    shared = await Shared(tmp_path).start()
    assert await in_thread(client(tmp_path, "m1").call, "add", "a") == 1
    size = journal_of(shared.folder).stat().st_size
    resource.prlimit(shared.child.pid, resource.RLIMIT_FSIZE, (size + 20, size + 20))
    refused = asyncio.create_task(in_thread(client(tmp_path, "m2").call, "add", "b"))
    await until(lambda: shared.child.death, DEADLINE, "its end")
    assert shared.reports[-2].kind == "disk"
    assert not refused.done()
    assert journal_of(shared.folder).stat().st_size == size + 20
    shared = await shared.again()
    assert await refused == 2
    assert await in_thread(client(tmp_path).call, "all") == {"a": 1, "b": 1}


@on_loop
async def test_only_one_process_has_the_folder(tmp_path):
    """A second one is refused, and harms nothing."""
    shared = await Shared(tmp_path).start()
    unfit = await Shared(tmp_path).refused()
    assert unfit.kind == "state"
    assert f"another process uses the state in {shared.folder}" in unfit.reason
    assert await in_thread(client(tmp_path, "m").call, "add", "a") == 1


@on_loop
async def test_a_reset_gives_a_new_object_and_keeps_what_is_remembered(tmp_path):
    """Also after a kill; a message that ran before has no second effect on the new one."""
    shared = await Shared(tmp_path).start()
    assert await in_thread(client(tmp_path, "m1").call, "add", "a") == 1
    shared.child.send(ResetState())
    await shared.until(lambda: shared.status.described == {"entries": 0, "wrong": 0}, "the new object")
    assert await in_thread(client(tmp_path, "m1").call, "add", "a") == 1
    await shared.kill()
    shared = await shared.again()
    assert await in_thread(client(tmp_path).call, "all") == {}
    assert await in_thread(client(tmp_path, "m2").call, "add", "b") == 1


@on_loop
async def test_bytes_that_are_no_calls_end_their_connection_only(tmp_path):
    """Others go on."""
    shared = await Shared(tmp_path).start()
    caller = client(tmp_path, "m1")
    assert await in_thread(caller.call, "add", "a") == 1
    short_key = pack(msgspec.msgpack.encode(Calls([Call(1, b"short", True, b"short", "all", b"\x92\x90\x80")])))
    large = pack(
        msgspec.msgpack.encode(Calls([Call(1, b"", True, b"", "add", b"\x92\x91\xc6\0\x20\0\0" + bytes(1 << 21))]))
    )
    short_notice = pack(msgspec.msgpack.encode(SettlementNotice("s", b"short", b"")))
    for data in (b"GET / HTTP/1.1\r\n\r\n" * 10, b"\0\0\0\1\0\0\0\0\xc1", short_key, short_notice, large):
        other = connect(shared.folder, 5.0)
        other.sendall(data)
        assert await in_thread(other.recv, 1) == b""
        other.close()
    assert await in_thread(caller.call, "add", "b") == 2


@on_loop
async def test_time_passes_for_the_object_and_in_its_replay(tmp_path):
    """`tick` is called every few seconds and journaled."""
    shared = await Shared(tmp_path, tick_seconds=0.05).start()
    await shared.until(lambda: shared.status.counts["ticks"] > 3, "some ticks")
    await shared.kill()
    shared = await shared.again()
    assert shared.status.diverged == {}
    assert shared.status.journaled > 3


RULE = """
class Rule:
    def __init__(self):
        self.seen = []
    def add(self, x):
        self.seen.append(x)
        return {answer}
{more}
"""


def write_rule(folder, answer="len(self.seen)", more=""):
    folder.mkdir(exist_ok=True)
    (folder / "rules.py").write_text(RULE.format(answer=answer, more=more))
    return {"job": "rules:Rule", "root": folder}


@on_loop
async def test_new_code_takes_the_state_over_only_when_it_can(tmp_path):
    """Paused, snapshot, tried; a class that cannot load it leaves the old one working; one that can goes on with it."""
    old = await Shared(tmp_path, digest="old", **write_rule(tmp_path / "old")).start()
    assert await in_thread(client(tmp_path, "m1").call, "add", 1) == 1
    bad = write_rule(tmp_path / "bad", more="    def __setstate__(self, state):\n        raise ValueError('too old')")
    good = write_rule(
        tmp_path / "good", "[*self.seen, 'new']", "    def describe(self):\n        return len(self.seen)"
    )
    unfit = await Shared(tmp_path, digest="new", trial=True, **good).refused()
    assert "was written by other code (old, not new)" in unfit.reason

    await old.pause()
    waiting = asyncio.create_task(in_thread(client(tmp_path, "m2").call, "add", 2))
    assert (await old.take_snapshot()).journaled == 0
    unfit = await Shared(tmp_path, digest="bad", trial=True, **bad).refused()
    assert "ValueError: too old" in unfit.reason
    await old.resume()
    assert await waiting == 2

    await old.pause()
    await old.take_snapshot()
    new = await Shared(tmp_path, digest="new", trial=True, **good).start("trial")
    assert new.status.described == 2
    waiting = asyncio.create_task(in_thread(client(tmp_path, "m3").call, "add", 3))
    await old.kill()
    new.child.send(Resume())
    assert await waiting == [1, 2, 3, "new"]
    assert await in_thread(client(tmp_path, "m1").call, "add", 1) == 1
    await new.kill()
    new = await new.again()
    assert await in_thread(client(tmp_path, "m4").call, "add", 4) == [1, 2, 3, 4, "new"]


@on_loop
async def test_failures_are_asked_again_under_new_code(tmp_path):
    """Under the same code a run of the message gets the failure again, without a second effect."""
    old = await Shared(tmp_path, digest="old", **write_rule(tmp_path / "old", "1 / 0")).start()
    for _ in range(2):
        with pytest.raises(SharedCallError, match="ZeroDivisionError"):
            await in_thread(client(tmp_path, "m1").call, "add", 1)
    old.child.send(StopSharing())
    await old.child.wait(DEADLINE)
    await Shared(tmp_path, digest="new", **write_rule(tmp_path / "new")).start()
    assert await in_thread(client(tmp_path, "m1").call, "add", 1) == 2


@on_loop
async def test_a_state_that_cannot_be_loaded_can_be_given_up(tmp_path):
    """With `fresh` a new object begins, also under other code; what is remembered stays."""
    old = await Shared(tmp_path, digest="old", **write_rule(tmp_path / "old")).start()
    assert await in_thread(client(tmp_path, "m1").call, "add", 1) == 1
    await old.kill()
    new = await Shared(tmp_path, digest="new", fresh=True, **write_rule(tmp_path / "new", "self.seen")).start()
    assert await in_thread(client(tmp_path, "m1").call, "add", 1) == 1
    assert await in_thread(client(tmp_path, "m2").call, "add", 2) == [2]
    await new.kill()
    new = await new.again()
    assert await in_thread(client(tmp_path, "m3").call, "add", 3) == [2, 3]


@on_loop
async def test_a_replay_that_differs_is_told_and_the_recorded_answer_stands(tmp_path):
    """A class that is not deterministic: by method, and a later run of the message gets what was answered."""
    rule = write_rule(tmp_path / "code", "__import__('os').getpid()")
    shared = await Shared(tmp_path, **rule).start()
    answer = await in_thread(client(tmp_path, "m1").call, "add", 1)
    await shared.kill()
    shared = await shared.again()
    assert shared.status.diverged == {"add": 1}
    assert await in_thread(client(tmp_path, "m1").call, "add", 1) == answer


@on_loop
async def test_a_class_that_cannot_be_used_is_told(tmp_path):
    """With place, cause and fix; the process ends in order."""
    (tmp_path / "rules.py").write_text("class Rule:\n    def setup(self): pass")
    shared = Shared(tmp_path, job="rules:Rule", root=tmp_path)
    unfit = await shared.refused()
    assert unfit.kind == "code"
    assert 'job "rules:Rule": a shared class has no setup' in unfit.reason
    assert shared.child.death.code == 0


@on_loop
async def test_it_runs_the_code_of_the_generation(tmp_path):
    """From the copy, whatever is in the folder by now."""
    (tmp_path / "code" / "d1").mkdir(parents=True)
    write_rule(tmp_path / "code" / "d1", "'from the copy'")
    rule = write_rule(tmp_path / "user", "'edited'")
    shared = Shared(tmp_path, **rule)
    copy = CodeCopy("d1", str(tmp_path / "user"))
    shared.spec = msgspec.structs.replace(shared.spec, copy=copy)
    await shared.start()
    assert await in_thread(client(tmp_path, "m1").call, "add", 1) == "from the copy"
    await shared.kill()
    gone = Shared(tmp_path, **rule)
    gone.spec = msgspec.structs.replace(shared.spec, copy=CodeCopy("gone", str(tmp_path / "user")))
    unfit = await gone.refused()
    assert unfit.kind == "code"
    assert "is gone" in unfit.reason


@on_loop
async def test_snapshots_under_load_lose_nothing(tmp_path):
    """While copies write the state, calls are made; afterwards the older files are gone, and everything is there."""
    shared = await Shared(tmp_path, snapshot_bytes=1 << 20).start()
    stop, calls = threading.Event(), [0]

    def load():
        caller = client(tmp_path)
        while not stop.is_set():
            names = [f"{calls[0]}.{each}" for each in range(200)]
            arguments = [Argument(message_key(name, b""), True, {"id": name}) for name in names]
            for each in caller.links("tally", arguments):
                each.result()
            calls[0] += 1

    loading = asyncio.create_task(in_thread(load))
    await shared.until(lambda: shared.status.snapshots >= 3, "three snapshots under load")
    stop.set()
    await loading
    status = await shared.fresh_status()
    assert status.snapshot_problem == ""
    assert status.counts["calls"] == 200 * calls[0]
    assert len([name for name in files(shared.folder) if name.startswith("snapshot")]) == 1
    await shared.kill()
    shared = await shared.again()
    assert await in_thread(client(tmp_path).call, "get", "link 0.0") == 1
    assert shared.status.described == {"entries": 200 * calls[0], "wrong": 0}


@on_loop
async def test_a_snapshot_holds_up_no_call(tmp_path):
    """Of a large object: the longest call meanwhile takes a fraction of what writing it in place takes."""
    shared = await Shared(tmp_path).start()
    await in_thread(client(tmp_path).call, "fill", 250_000)
    began = time.monotonic()
    await shared.pause()
    assert (await shared.take_snapshot()).journaled == 0
    in_place = time.monotonic() - began
    await shared.resume()
    stop, longest = threading.Event(), [0.0]

    def load():
        caller = client(tmp_path)
        while not stop.is_set():
            began = time.monotonic()
            caller.call("get", "filled 1")
            longest[0] = max(longest[0], time.monotonic() - began)

    loading = asyncio.create_task(in_thread(load))
    held_up = []
    for _ in range(4):
        longest[0] = 0.0
        await shared.take_snapshot()
        held_up.append(longest[0])
    stop.set()
    await loading
    assert min(held_up) < in_place / 2


@on_loop
async def test_a_snapshot_that_fails_is_told_and_changes_nothing(tmp_path):
    """An object that can be pickled at first, and later not: the journal goes on, and has everything."""
    more = "    def spoil(self):\n        self.lock = __import__('threading').Lock()"
    shared = await Shared(tmp_path, **write_rule(tmp_path / "code", more=more)).start()
    assert await in_thread(client(tmp_path, "m1").call, "add", 1) == 1
    await in_thread(client(tmp_path, "m2").call, "spoil")
    shared.child.send(TakeSnapshot())
    await shared.until(lambda: shared.status.snapshot_problem, "the failure to be told")
    assert any("cannot pickle" in event.msg for event in shared.logged)
    shared.child.send(StopSharing())
    await shared.child.wait(DEADLINE)
    told = [event.msg for event in shared.logged if "was not made: TypeError: cannot pickle" in event.msg]
    assert all("(attribute lock)" in msg for msg in told)
    assert len(told) == 1, "told once, however often it fails"
    shared = await shared.again()
    assert await in_thread(client(tmp_path, "m3").call, "add", 3) == 2


@on_loop
async def test_the_helper_that_syncs_dies_with_it(tmp_path):
    """No process is left."""
    shared = await Shared(tmp_path).start()
    (helper,) = children_of(shared.child.pid)
    await shared.kill()
    await until(lambda: getattr(proc.stat(helper), "state", "X") in proc.DEAD, DEADLINE, "the helper's end")


@on_loop
async def test_a_copy_that_a_method_forks_keeps_nothing_of_it(tmp_path):
    """One that returns ends there; one that outlives the process holds up neither its callers nor its successor."""
    shared = await Shared(tmp_path).start()
    caller = client(tmp_path, "m1")
    flag = tmp_path / "flag"
    assert await in_thread(caller.call, "fork", str(flag)) > 0
    flag.touch()
    copy = await in_thread(client(tmp_path, "m3").call, "fork", str(flag))
    assert await in_thread(caller.call, "add", "a") == 1
    waiting = asyncio.create_task(in_thread(client(tmp_path, "m2").call, "sleep", 1.0))
    await until(lambda: read_execution(shared.folder / EXECUTION), DEADLINE, "the call to begin")
    await shared.kill()
    assert proc.stat(copy) is not None
    shared = await shared.again()  # the replay forks too
    assert await waiting is None
    await shared.kill()
    shared = await shared.again()
    assert await in_thread(client(tmp_path).call, "all") == {"a": 1}
    flag.unlink()
    await until(lambda: getattr(proc.stat(copy), "state", "X") in proc.DEAD, DEADLINE, "the copy's end")


@on_loop
async def test_the_producers_words_decide_how_long_a_call_is_remembered(tmp_path):
    """On a connection of their own, never answered: what was settled goes by its number, what comes back is kept."""
    shared = await Shared(tmp_path).start()
    for name in ("settled", "failed", "open"):
        await in_thread(client(tmp_path, name).call, "add", name)
    keys = {name: message_key(name, b"body") for name in ("settled", "failed", "open")}
    producer = connect(shared.folder, DEADLINE)
    for notice in (
        SettlementNotice("s", b"", keys["failed"]),
        SettlementNotice("s", keys["settled"] + keys["failed"], b""),
    ):
        producer.sendall(pack(msgspec.msgpack.encode(notice)))
    await shared.until(lambda: shared.status.kept == 2, "the notices to be read")
    assert shared.status.remembered == 3
    await shared.kill()
    shared = await shared.again()
    assert (shared.status.remembered, shared.status.kept) == (3, 2)
    producer.close()
