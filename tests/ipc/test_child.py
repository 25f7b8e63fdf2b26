"""One life of a child process: started, heard, ended and reaped, whatever the child does."""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
import weakref
from pathlib import Path

import msgspec
import pytest

from mqworker.ipc.admin_messages import AdminAnswer, AdminRequest
from mqworker.ipc.child import Child
from mqworker.ipc.frames import FrameTooLarge, pack
from mqworker.ipc.records import LogEvent
from tests.ipc.acting import (
    READY,
    Acting,
    close_pipe,
    echo,
    flood_output,
    fork_a_copy_and_die,
    ignore_signals,
    leave,
    say_much_and_die,
    wait,
    write_raw,
)
from tests.support.children import await_zombie, end_children
from tests.support.loop import on_loop
from tests.support.waiting import until

DEADLINE = 20.0
_decoder = msgspec.msgpack.Decoder(AdminAnswer | LogEvent)


class Owner:
    """Keeps what a child's callbacks report, in order."""

    def __init__(self):
        self.heard = []
        self.child = Child(_decoder, self.on_record, self.on_death, self.on_log)

    def on_record(self, record):
        self.heard.append(record)

    def on_log(self, event):
        self.heard.append(event)

    def on_death(self, death):
        assert not self.child.alive
        self.heard.append(death)

    def start(self, act, *arguments, **options):
        self.child.start(Acting(act, *arguments, **options))
        return self

    async def ready(self):
        await until(lambda: READY in self.heard, DEADLINE, "the child to be ready")
        return self

    async def deaths(self):
        """Its deaths, when there is one and time has passed for another."""
        await until(lambda: self.child.death, DEADLINE, "the child's death")
        await asyncio.sleep(0)
        return [each for each in self.heard if each == self.child.death]


def descriptors():
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names, not paths


def held_signals(pid):
    """The set of signals that a process has blocked, as a number."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("SigBlk")).split()[1], 16)


def reaped(pid):
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture(autouse=True)
def nothing_left():
    """After each test no child, descriptor or pid is left."""
    from multiprocessing import resource_tracker  # noqa: PLC0415 - its pipe stays

    resource_tracker.ensure_running()
    before = descriptors()
    yield
    assert not end_children()
    gc.collect()
    assert descriptors() <= before


@on_loop
async def test_what_it_says_is_received_and_what_it_is_sent_arrives():
    """Records go both ways, log events and output lines to the log callback."""
    owner = await Owner().start(echo).ready()
    assert owner.child.alive
    assert owner.child.send(AdminRequest(7, "v", 1.0, {"a": b"x" * 300_000}))
    await owner.child.put(AdminRequest(8, "v", 1.0, {}))
    await until(lambda: len(owner.heard) == 3, DEADLINE, "the answers")
    assert owner.heard == [READY, AdminAnswer(7, {"a": b"x" * 300_000}), AdminAnswer(8, {})]
    death = await owner.child.stop("enough", DEADLINE)
    assert death.code == -signal.SIGKILL
    assert owner.heard[3:] == [death]


@on_loop
async def test_its_death_is_reported_once_and_after_all_that_it_said():
    """Every record and every line that it had written comes first, however much it was and however it died."""
    owner = Owner().start(say_much_and_die, 3000)
    await owner.deaths()
    records = [each.id for each in owner.heard[1:] if isinstance(each, AdminAnswer)]
    lines = [each.msg for each in owner.heard if isinstance(each, LogEvent)]
    assert records == list(range(3000))
    assert lines == [f"line {number}" for number in range(3000)]
    assert [type(each).__name__ for each in owner.heard].count("Death") == 1
    assert owner.heard[-1] == owner.child.death
    assert owner.child.output_tail.endswith("line 2999\n")


@on_loop
async def test_a_child_that_dies_at_once_is_one_death():
    """Before it has said anything; nothing else is reported."""
    owner = Owner().start(leave, 5, ready=False)
    (death,) = await owner.deaths()
    assert (death.code, owner.heard) == (5, [death])
    assert reaped(owner.child.pid)


@on_loop
async def test_a_death_can_be_noticed_before_the_loop_comes_to_it():
    """Asked for, it is reported at once, and not a second time; of a child that lives nothing is."""
    owner = Owner()
    owner.child.notice_death()
    await owner.start(wait).ready()
    owner.child.notice_death()
    assert owner.child.alive
    os.kill(owner.child.pid, signal.SIGKILL)
    await_zombie(owner.child.pid)
    owner.child.notice_death()
    assert owner.heard == [READY, owner.child.death]
    owner.child.notice_death()
    assert await owner.deaths() == [owner.child.death]


@on_loop
async def test_a_child_that_ignores_signals_is_stopped():
    """Stopped means gone and reaped when `stop` returns, and its death was reported by then."""
    owner = await Owner().start(ignore_signals).ready()
    owner.child.send_signal(signal.SIGTERM)
    assert await owner.child.wait(0.2) is None
    death = await owner.child.stop("enough", DEADLINE)
    assert owner.heard == [READY, death]
    assert reaped(owner.child.pid)
    assert owner.child.kill_reason == "enough"


@on_loop
async def test_stopping_twice_and_before_the_start_is_harmless():
    """Whatever the order: a child that was never started has no death, a dead one keeps its own."""
    owner = Owner()
    owner.child.kill("too early")
    assert await owner.child.stop("too early") is None
    assert (owner.child.kill_reason, owner.child.output_tail) == ("", "")
    owner.start(wait)
    first, second = await asyncio.gather(owner.child.stop("a"), owner.child.stop("b"))
    assert first is second is await owner.child.stop("c")
    owner.child.kill("d")
    owner.child.send_signal(signal.SIGTERM)
    assert not owner.child.send(READY)
    with pytest.raises(BrokenPipeError):
        await owner.child.put(READY)
    assert owner.child.kill_reason == "a"
    assert owner.heard[-1] == first


@on_loop
async def test_it_is_killed_at_its_deadline_whoever_still_waits():
    """The timer is the child's own: a caller that is cancelled takes it away no more than one that never asked."""
    owner = await Owner().start(ignore_signals).ready()
    owner.child.kill_after(0.3, "it did not answer")
    waiting = asyncio.create_task(owner.child.wait(10))
    await asyncio.sleep(0)
    waiting.cancel()
    await owner.deaths()
    assert owner.child.kill_reason == "it did not answer"


@on_loop
async def test_a_deadline_that_is_called_off_does_nothing():
    """It answered in time; and one that comes after its death is harmless."""
    owner = await Owner().start(wait).ready()
    owner.child.kill_after(0.1, "late").cancel()
    assert await owner.child.wait(0.25) is None
    owner.child.kill_after(0.3, "later")
    later = asyncio.Event()
    asyncio.get_running_loop().call_later(0.3, later.set)  # right after that deadline
    await owner.child.stop("enough", DEADLINE)
    await later.wait()
    assert owner.child.kill_reason == "enough"


@on_loop
async def test_a_flood_of_output_holds_up_neither_the_loop_nor_the_end():
    """The loop turns, and the child is gone soon after the kill."""
    owner = await Owner().start(flood_output).ready()
    await until(lambda: len(owner.heard) > 10_000, DEADLINE, "a flood")
    began = time.monotonic()
    assert await owner.child.stop("enough", DEADLINE) is not None
    assert time.monotonic() - began < DEADLINE / 2


@on_loop
async def test_a_child_that_closes_its_pipe_is_killed():
    """It cannot be heard any more, and is given two seconds to end by itself."""
    owner = await Owner().start(close_pipe).ready()
    began = time.monotonic()
    await owner.deaths()
    assert time.monotonic() - began > 1
    assert owner.child.kill_reason == "it closed its pipe"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"print() from somewhere\n", "its pipe carried something else: frame of"),
        (pack(b"x")[:-1] + b"y", "its pipe carried something else: wrong checksum"),
        (pack(b"\xc1"), "what it sent is not a record"),
        (pack(msgspec.msgpack.encode({"type": "ask"})), "what it sent is not a record"),
    ],
)
def test_a_child_that_cannot_be_understood_is_killed(data, reason):
    """Bytes that are no frames and frames that are no record: nothing that follows could be trusted."""

    @on_loop
    async def run():
        owner = await Owner().start(write_raw, data).ready()
        await owner.deaths()
        assert owner.child.kill_reason.startswith(reason)

    run()


@on_loop
async def test_a_copy_that_it_forked_does_not_delay_its_death():
    """The copy holds every pipe and writes on: what the dead one had said is read, and no end of file is awaited."""
    owner = await Owner().start(fork_a_copy_and_die).ready()
    began = time.monotonic()
    (death,) = await owner.deaths()
    assert death.code == 3
    assert owner.heard[-1] == death
    assert time.monotonic() - began < 30
    count = len(owner.heard)
    await asyncio.sleep(0.1)
    assert len(owner.heard) == count


@on_loop
async def test_a_callback_that_raises_costs_its_record_only(caplog):
    """It is logged; later records and the death still come."""
    owner = await Owner().start(echo).ready()
    real, owner.child._on_record = owner.child._on_record, lambda _record: 1 / 0
    owner.child.send(AdminRequest(1, "v", 1.0, {}))
    await until(lambda: "could not be handled" in caplog.text, DEADLINE, "the log")
    owner.child._on_record = real
    owner.child.send(AdminRequest(2, "v", 1.0, {}))
    await until(lambda: AdminAnswer(2, {}) in owner.heard, DEADLINE, "the second answer")
    await owner.child.stop("enough", DEADLINE)
    assert owner.heard[-1] == owner.child.death


@on_loop
async def test_a_death_whose_report_raises_leaves_nothing_half_done():
    """Everything is closed and reaped, and whoever waits for the end hears it, though the owner's part failed."""
    raised = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: raised.append(context["exception"]))
    owner = await Owner().start(wait).ready()
    owner.child._on_death = lambda _death: 1 / 0
    assert (await owner.child.stop("enough", DEADLINE)).code == -signal.SIGKILL
    assert isinstance(raised[0], ZeroDivisionError)
    assert reaped(owner.child.pid)


@pytest.mark.parametrize("spare", range(12))
def test_a_start_without_descriptors_leaves_nothing_behind(spare):
    """Whichever of its descriptors cannot be had: OSError, no process, no descriptor, and no callback ever."""

    @on_loop
    async def run():
        owner = Owner()
        before, others = descriptors(), children()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, before)) + 1 + spare, hard))
        try:
            owner.start(wait)
        except OSError as error:
            assert error.errno == errno.EMFILE  # noqa: PT017 - with enough to spare it starts
            failed = True
        else:
            failed = False
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if failed:
            assert (descriptors(), owner.heard, owner.child.alive) == (before, [], False)
            assert children() == others
        await owner.child.stop("enough", DEADLINE)

    run()


def children():
    """Our children (other tests' broker may be one), without multiprocessing's tracker."""
    from multiprocessing import resource_tracker  # noqa: PLC0415 - as above

    found = {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}
    return found - {resource_tracker._resource_tracker._pid}


@on_loop
async def test_a_child_that_cannot_be_watched_is_not_started(monkeypatch):
    """The process is there, but its pidfd is not to be had: it is ended and reaped before OSError is raised."""

    def refuse(_pid):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    owner = Owner()
    before, others = descriptors(), children()
    with pytest.raises(OSError, match="Too many open files"):
        owner.start(wait)
    assert (descriptors(), children(), owner.heard) == (before, others, [])


@on_loop
async def test_only_the_main_thread_starts_children():
    """The kernel would kill them at the end of any other thread."""
    failed = []

    def begin(loop):
        asyncio.set_event_loop(loop)
        try:
            owner.start(wait)
        except AssertionError as error:
            failed.append(str(error))

    owner = Owner()
    thread = threading.Thread(target=begin, args=(asyncio.get_running_loop(),))
    thread.start()
    thread.join()
    assert "starting thread" in failed[0]


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTSTP])
def test_a_signal_does_not_end_a_child_that_is_still_starting(number):
    """Sent before its interpreter has even started: it waits until the handlers are there."""

    @on_loop
    async def run():
        owner = Owner().start(wait)
        owner.child.send_signal(number)
        await owner.ready()
        assert await owner.child.wait(0.1) is None
        if number is signal.SIGUSR2:
            await until(lambda: any("thread 0x" in str(each) for each in owner.heard), DEADLINE, "its stacks")
        await owner.child.stop("enough", DEADLINE)

    run()


@on_loop
async def test_programs_of_a_child_have_no_signal_held():
    """What was held for the start is released before `main`: else programs that it starts could not be told to end."""
    owner = await Owner().start(wait).ready()
    assert held_signals(owner.child.pid) == 0
    await owner.child.stop("enough", DEADLINE)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == set()


@on_loop
async def test_what_is_too_large_is_refused_at_once():
    """More than the pipe's bound: a sentence for whoever asks, and the child goes on."""
    owner = await Owner().start(echo).ready()
    with pytest.raises(FrameTooLarge, match="too large to be passed on"):
        await owner.child.put(AdminRequest(1, "v", 1.0, {"a": bytes(65 << 20)}))
    assert not owner.child.send(AdminRequest(1, "v", 1.0, {"a": bytes(65 << 20)}))
    await owner.child.put(AdminRequest(2, "v", 1.0, {}))
    await until(lambda: AdminAnswer(2, {}) in owner.heard, DEADLINE, "the answer")
    await owner.child.stop("enough", DEADLINE)


@on_loop
async def test_many_large_records_wait_for_room():
    """Ten of 16 MiB at once, more than the bound: all arrive, in order."""
    owner = await Owner().start(echo).ready()
    puts = [
        asyncio.create_task(owner.child.put(AdminRequest(number, "v", 1.0, {"a": bytes(16 << 20)})))
        for number in range(10)
    ]
    await asyncio.gather(*puts)
    await until(lambda: len(owner.heard) == 11, DEADLINE, "the answers")
    assert [answer.id for answer in owner.heard[1:]] == list(range(10))
    await owner.child.stop("enough", DEADLINE)


@on_loop
async def test_what_waits_for_room_hears_of_the_death():
    """Nobody waits for a child that is gone."""
    owner = await Owner().start(wait).ready()
    await owner.child.put(AdminRequest(1, "v", 1.0, {"a": bytes(60 << 20)}))
    waiting = asyncio.create_task(owner.child.put(AdminRequest(2, "v", 1.0, {"a": bytes(60 << 20)})))
    await asyncio.sleep(0)
    await owner.child.stop("enough", DEADLINE)
    with pytest.raises(BrokenPipeError):
        await waiting


@on_loop
async def test_a_dead_child_does_not_keep_its_owner():
    """No cycle is left at its death: what the owner holds is freed without a garbage collection."""
    gc.collect()
    gc.disable()
    try:
        owner = await Owner().start(wait).ready()
        child = owner.child
        await child.stop("enough", DEADLINE)
        gone = weakref.ref(owner)
        del owner.child, owner
        assert gone() is None
    finally:
        gc.enable()
    assert child.death is not None


@on_loop
async def test_a_signal_that_is_refused_is_logged_once(caplog, monkeypatch):
    """User code made it another user's process: the kernel says no, and the loop goes on."""
    owner = await Owner().start(wait).ready()

    def refuse(_fd, _number):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with caplog.at_level(logging.ERROR), monkeypatch.context() as patch:
        patch.setattr(signal, "pidfd_send_signal", refuse)
        owner.child.kill("enough")
        assert await owner.child.stop("again", 0.1) is None
    assert [record.message for record in caplog.records] == [
        f"process {owner.child.pid} could not be sent SIGKILL: Operation not permitted"
    ]
    await owner.child.stop("enough", DEADLINE)


@on_loop
async def test_its_exit_code_is_not_stolen_by_a_later_start():
    """multiprocessing reaps its known children at every start; ours keep their death and their peak memory."""
    first = Owner().start(leave, 9, ready=False)
    await_zombie(first.child.pid)
    second = Owner().start(wait)
    (death,) = await first.deaths()
    assert death.code == 9
    assert death.peak_rss > 1 << 20
    await second.child.stop("enough", DEADLINE)


@on_loop
async def test_the_end_of_the_parent_does_not_wait_for_it():
    """A parent that ends by an exception leaves no child running, and is held up by none."""
    code = (
        "import asyncio, tests.ipc.test_child as t\n"
        "async def main():\n"
        "    owner = await t.Owner().start(t.ignore_signals).ready()\n"
        "    print(owner.child.pid, flush=True)\n"
        "    raise ValueError('x')\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(3 * DEADLINE):
        out, err = await process.communicate()
    assert b"ValueError: x" in err
    await until(lambda: reaped(int(out)), DEADLINE, "the child's end")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@on_loop
async def test_a_child_that_became_another_users_keeps_no_other_from_being_killed():
    """At the parent's end each child that may be killed is killed, whatever the others are."""
    ours = await asyncio.create_subprocess_exec("sleep", "600", preexec_fn=lambda: os.setresuid(54321, 54321, 54321))
    theirs = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        code = (
            "import os\n"
            "from mqworker.ipc import child\n"
            f"child.living = [{theirs.pid}, {ours.pid}]\n"
            "os.setresuid(54321, 54321, 54321)\n"
        )
        parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
        assert await asyncio.wait_for(parent.wait(), DEADLINE) == 0
        assert await asyncio.wait_for(ours.wait(), DEADLINE) == -signal.SIGKILL
        assert theirs.returncode is None
    finally:
        for each in (ours, theirs):
            with contextlib.suppress(ProcessLookupError):
                each.kill()
            await each.wait()
