"""What children write: logged line by line, with the tail kept."""

import asyncio
import contextlib
import fcntl
import io
import os
import sys
import threading
import time

import pytest

from mqworker.ipc.lines import LINE
from mqworker.ipc.logs import line_text
from mqworker.ipc.marks import Mark, mark
from mqworker.ipc.output import HOLDS, TAIL, OutputReader
from tests.support.loop import on_loop
from tests.support.waiting import until

TOKEN = "t0ken"


@pytest.fixture
def pipe():
    """The reading and the writing end."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):
            os.close(fd)


def reader(fd, events):
    return OutputReader(fd, "s.consumer-0", 42, "s", events.append, TOKEN)


def words(events):
    return [event.msg for event in events]


class Consumer:
    """The messages of a Consumer, whose output goes to a pipe; each has its number as id."""

    def __init__(self, far):
        self.seq = 0
        self.stream = os.fdopen(far, "w", closefd=False)
        self._mark = Mark(far, TOKEN, (self.stream, self.stream))

    def end(self, following=0):
        """End the message in hand, and begin the following."""
        self._mark.end(lambda: labels(self.seq))
        self.seq = following


def labels(seq):
    return {"message_id": str(seq), "attempt": 1}


def told(events):
    """Return the lines and the ids that they carry."""
    return [(event.msg, event.fields.get("message_id")) for event in events]


@on_loop
async def test_each_line_carries_the_labels_of_the_message_that_wrote_it(pipe):
    """Whenever the pipe is read, a line belongs to the message that wrote it: text without an end of line too."""
    near, far = pipe
    consumer, events = Consumer(far), []
    found = OutputReader(near, "c", 42, "s", events.append, TOKEN, lambda: consumer.seq, labels)
    consumer.seq = 1
    os.write(far, b"native 1\n")
    consumer.stream.write("python 1")
    consumer.end(2)
    consumer.end(3)
    os.write(far, b"early 3\n")
    found._read()
    assert told(events) == [("native 1", "1"), ("python 1", "1"), ("early 3", "3")]
    os.write(far, b"late 3")
    found._read()
    consumer.end()
    found.catch_up()
    os.write(far, b"between\n")
    found._read()
    consumer.seq = 4
    os.write(far, b"last words of 4")
    found.finish()
    assert told(events)[3:] == [("late 3", "3"), ("between", None), ("last words of 4", "4")]
    assert found.tail == "native 1\npython 1early 3\nlate 3between\nlast words of 4"  # without marks


@on_loop
async def test_what_is_read_while_the_message_changes_has_no_label_rather_than_a_wrong_one(pipe):
    """A line that is read while one message ends and another begins carries an id only if a later mark tells whose."""
    near, far = pipe
    events, seqs = [], iter([1, 1, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 0, 0])
    consumer = Consumer(far)
    found = OutputReader(near, "c", 42, "s", events.append, TOKEN, lambda: next(seqs), labels)
    for line in (b"sure 1\n", b"perhaps 1\n", b"perhaps 2\n"):
        os.write(far, line)
        found._read()
    os.write(far, b"more of 2\n")
    consumer.seq = 2
    consumer.end()
    os.write(far, b"sure 3\n")
    found._read()
    os.write(far, b"perhaps 3\n")
    found._read()
    found.catch_up(read=False)
    assert told(events) == [
        ("sure 1", "1"),
        ("perhaps 1", None),
        ("perhaps 2", "2"),
        ("more of 2", "2"),
        ("sure 3", "3"),
        ("perhaps 3", None),
    ]


@on_loop
async def test_a_mark_behind_a_line_that_is_cut_counts(pipe):
    """A line that is cut belongs to its message too, and the next does not."""
    near, far = pipe
    consumer, events = Consumer(far), []
    found = OutputReader(near, "c", 42, "s", events.append, TOKEN, lambda: consumer.seq, labels)
    consumer.seq = 1
    os.write(far, b"a" * 9_000)
    found._read()
    os.write(far, b"a" * 9_000)
    consumer.end(2)
    found._read()
    os.write(far, b"next\n")
    found._read()
    assert told(events) == [("a" * LINE, "1"), ("next", "2")]
    assert found.tail == ("a" * TAIL + "next\n")[-TAIL:]


LABELS = b'{"message_id": "7", "attempt": 1}'
ODD = (b"", b"[]", b"{", b"[" * 3_000, b'{"message_id": "7", "attempt": 1e999}', b'{"message_id": 7, "attempt": 1}')


@on_loop
async def test_what_only_looks_like_a_mark_is_a_line(pipe):
    """A handler may print a body that has the bytes of a mark: each line is logged, under the message that wrote it."""
    near, far = pipe
    events = []
    found = OutputReader(near, "c", 42, "s", events.append, TOKEN, lambda: 1, labels)
    lines = [b"\0mqworker:" + odd for odd in (*ODD, LABELS)] + [mark("another") + LABELS]
    os.write(far, b"one\n" + b"\n".join(lines) + b"\ntwo\n")
    found._read()
    assert told(events) == [(line.decode(), "1") for line in (b"one", *lines, b"two")]


@pytest.mark.parametrize("odd", [*ODD, b'{"message_id": "\\ud800", "attempt": true}'])
@on_loop
async def test_a_mark_that_is_torn_harms_nothing(pipe, odd):
    """The text before a mark without labels has none, and what follows it is read on."""
    near, far = pipe
    events = []
    found = OutputReader(near, "c", 42, "s", events.append, TOKEN, lambda: 1, labels)
    os.write(far, b"one" + mark(TOKEN) + odd + b"\ntwo\n")
    found._read()
    assert told(events) == [("one", None), ("two", "1")]


@on_loop
async def test_streams_that_user_code_replaced_or_closed_are_flushed_as_far_as_they_can(pipe, monkeypatch):
    """What the present sys.stdout holds back is of its message; a stream that is closed or none keeps none from it."""
    near, far = pipe
    consumer, events = Consumer(far), []
    found = OutputReader(near, "c", 42, "s", events.append, TOKEN, lambda: consumer.seq, labels)
    consumer.seq = 1
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(consumer.stream.buffer))
    sys.stdout.write("replaced 1\n")
    consumer.end(2)
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    consumer.stream.write("first 2\n")
    consumer.end()
    found._read()
    assert told(events) == [("replaced 1", "1"), ("first 2", "2")]


@on_loop
async def test_a_full_pipe_that_does_not_block_gets_its_mark(pipe):
    """A program that shares the pipe may make it non-blocking: what fills it is still of the message that wrote it."""
    near, far = pipe
    consumer, events = Consumer(far), []
    consumer.seq = 1
    os.set_blocking(far, False)
    line = b"x" * 63 + b"\n"
    with contextlib.suppress(BlockingIOError):
        while os.write(far, line):
            pass
    ending = threading.Thread(target=consumer.end, args=(2,), daemon=True)
    ending.start()
    await until(lambda: os.get_blocking(far), 20, "the mark to be held up")
    OutputReader(near, "c", 42, "s", events.append, TOKEN, lambda: consumer.seq, labels)
    await until(lambda: not ending.is_alive(), 20, "the mark")
    os.write(far, b"next\n")
    await until(lambda: told(events)[-1:] == [("next", "2")], 20, "the next line")
    assert {event.fields.get("message_id") for event in events[:-1]} == {"1"}


@on_loop
async def test_one_read_takes_all_that_the_pipe_holds(pipe):
    """Whatever the size of its pages or its pipe, nothing of a message is left in it when the next one is read."""
    near, far = pipe
    consumer, events = Consumer(far), []
    found = OutputReader(near, "c", 42, "s", events.append, TOKEN, lambda: consumer.seq, labels)
    fcntl.fcntl(far, fcntl.F_SETPIPE_SZ, 4 * HOLDS)
    consumer.seq = 1
    os.write(far, b"early 1\n" * (3 * HOLDS // 8))
    consumer.end(2)
    found._read()
    assert len(events) == 3 * HOLDS // 8
    assert {event.fields["message_id"] for event in events} == {"1"}


@on_loop
async def test_a_line_that_cannot_be_logged_is_lost_alone(pipe, caplog):
    """Whatever raises, the next lines are logged, who catches up hears nothing of it, and it is reported once."""
    near, far = pipe
    consumer, logged = Consumer(far), []

    def log(event):
        if "bad" in event.msg:
            raise UnicodeEncodeError("utf-8", "bad", 0, 1, "surrogates not allowed")
        logged.append(event.msg)

    def about(seq):
        if seq == 3:
            raise ValueError("no labels")
        return labels(seq)

    found = OutputReader(near, "c", 42, "s", log, TOKEN, lambda: consumer.seq, about)
    consumer.seq = 1
    os.write(far, b"bad\ngood\nbad")
    found.catch_up()
    consumer.seq = 2
    found.catch_up()
    os.write(far, b"next\n")
    found.catch_up()
    consumer.seq = 3
    os.write(far, b"unknown\n")
    found.catch_up()
    assert logged == ["good", "next"]
    assert [record.event for record in caplog.records] == ["record_failed"]


@on_loop
async def test_each_line_is_an_event(pipe):
    """Each line is reported when it ends; blank lines are not."""
    near, far = pipe
    events = []
    found = reader(near, events)
    os.write(far, b"one\n\n  \ntw")
    await until(lambda: events, 5, "the first line")
    os.write(far, b"o\nthree")
    await until(lambda: len(events) == 2, 5, "the second line")
    assert words(events) == ["one", "two"]
    found.finish()
    assert words(events) == ["one", "two", "three"]
    assert {(event.process, event.pid, event.stage, event.event) for event in events} == {
        ("s.consumer-0", 42, "s", "output")
    }


@on_loop
async def test_text_is_not_trusted(pipe):
    """Bytes that are not UTF-8 are escaped; control characters are left to whoever writes the line."""
    near, far = pipe
    events = []
    found = reader(near, events)
    os.write(far, b"\xff\xfe gr\xc3\xbc\xc3\x9fe \x1b[31m\n")
    found.finish()
    assert words(events) == ["\\xff\\xfe grüße \x1b[31m"]
    assert "\x1b" not in line_text(events[0], "svc")


@on_loop
async def test_long_lines_are_cut(pipe):
    """A line is reported once, up to its bound, whether or not it has ended."""
    near, far = pipe
    events = []
    found = reader(near, events)
    for piece in (b"a" * 60_000, b"a" * 20_000 + b"\nnext\n" + b"b" * 9_000 + b"\nlast"):
        os.write(far, piece)
        while found._read():
            pass
    found.finish()
    assert words(events) == ["a" * LINE, "next", "b" * LINE, "last"]


@on_loop
async def test_the_tail_is_kept(pipe):
    """The last 8 kB are kept as evidence, whatever came before."""
    near, far = pipe
    found = reader(near, [])
    assert found.tail == ""
    for number in range(40):
        os.write(far, b"%04d" % number * 1000)
        found._read()
    os.write(far, b"Segmentation fault\n")
    found.finish()
    assert len(found.tail) == TAIL
    assert found.tail.endswith("0039Segmentation fault\n")


CRASHING = """
import ctypes, faulthandler, resource, threading
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
faulthandler.enable(2)
def deep(left, then):
    deep(left - 1, then) if left else then()
def crash():
    print(f"{threading.get_ident():#018x}", flush=True)
    ctypes.string_at(0)
for _ in range(12):
    threading.Thread(target=deep, args=(60, threading.Event().wait), daemon=True).start()
crashing = threading.Thread(target=crash)
crashing.start()
for _ in range(12):
    threading.Thread(target=deep, args=(60, threading.Event().wait), daemon=True).start()
crashing.join()
"""


@on_loop
async def test_the_stack_of_the_thread_that_crashed_is_kept_whatever_others_follow(pipe):
    """The stacks of the other threads fill the tail, on both sides of it."""
    near, far = pipe
    events = []
    found = reader(near, events)
    done = await asyncio.create_subprocess_exec(sys.executable, "-c", CRASHING, stdout=far, stderr=far)
    assert await done.wait() < 0
    os.close(far)
    found.finish()
    first, *_ = words(events)
    kind, _, current, *stack = found.crash.splitlines()
    assert kind == "Fatal Python error: Segmentation fault"
    assert current.startswith(f"Current thread {first}")
    assert [line.rpartition(" in ")[2] for line in stack][:2] == ["string_at", "crash"]
    assert len(found.crash) < len(found.tail) == TAIL


@on_loop
async def test_what_a_dead_child_left_is_read_though_a_copy_lives(pipe):
    """A process that it forked may keep the pipe open, so nothing waits for end of file."""
    near, far = pipe
    events = []
    found = reader(near, events)
    os.write(far, b"x" * 100 + b"\n" + b"y" * 60_000 + b"\nend")
    began = time.monotonic()
    found.finish()
    assert time.monotonic() - began < 20  # the end of the pipe never comes
    assert words(events) == ["x" * 100, "y" * LINE, "end"]


@on_loop
async def test_a_child_that_writes_without_end_waits_and_not_its_parent(pipe):
    """The loop keeps running during a flood, and `finish` returns while it lasts."""
    near, far = pipe
    count = 0

    def log(_event):
        nonlocal count
        count += 1

    flood = await asyncio.create_subprocess_exec("yes", stdout=far)
    found = OutputReader(near, "s.consumer-0", 42, "s", log, TOKEN)
    try:
        turns = 0
        while turns < 20 or count < 20_000:
            await asyncio.sleep(0)
            turns += 1
        before = count
        found.finish()
        assert count - before <= 65_536 // 2 + 65_536  # a full pipe in lines of two bytes, and what came meanwhile
    finally:
        flood.kill()
        await flood.wait()


@on_loop
async def test_the_end_of_the_pipe_and_closed_descriptors_are_survived(pipe):
    """After end of file nothing is watched any more, and `finish` may be called late or twice."""
    near, far = pipe
    events = []
    found = reader(near, events)
    os.write(far, b"last words")
    os.close(far)
    await until(lambda: near not in asyncio.get_running_loop()._selector.get_map(), 5, "the end of watching")
    found.finish()
    found.finish()
    os.close(near)
    found.finish()
    assert words(events) == ["last words"]
