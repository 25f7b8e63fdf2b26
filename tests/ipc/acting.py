"""A child process that does one thing, for tests of the life of one; it imports little, because there are many."""

import os
import signal
import time

import msgspec

from mqworker.ipc.admin_messages import AdminAnswer, AdminRequest
from mqworker.ipc.frames import pack, read_frame, write_all
from mqworker.ipc.spawn import Spawned

READY = AdminAnswer(1, "ready")


class Acting(Spawned):
    """Says that it is ready, unless told otherwise, and runs one of the functions below."""

    title = "mqw-test"

    def __init__(self, act, *arguments, ready=True):
        super().__init__("s.child", "s")
        self._act, self._arguments, self._ready = act, arguments, ready

    def main(self):
        if self._ready:
            say(self, READY)
        self._act(self, *self._arguments)


def say(process, record):
    write_all(process.up.fileno(), pack(msgspec.msgpack.encode(record)))


def wait(_process):
    while True:
        signal.pause()


def leave(_process, code):
    os._exit(code)


def ignore_signals(_process):
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    wait(_process)


def echo(process):
    while True:
        question = msgspec.msgpack.decode(read_frame(process.down.fileno()), type=AdminRequest)
        say(process, AdminAnswer(question.id, question.arguments))


def say_much_and_die(process, count):
    for number in range(count):
        say(process, AdminAnswer(number))
        print("line", number)
    os.kill(os.getpid(), signal.SIGKILL)


def flood_output(_process):
    os.execvp("yes", ["yes"])


def close_pipe(process):
    process.up.close()
    wait(process)


def write_raw(process, data):
    os.write(process.up.fileno(), data)
    wait(process)


def fork_a_copy_and_die(process):
    """The copy holds every pipe, and writes frames and lines without end."""
    if os.fork() == 0:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            os.write(2, b"copy\n" * 100)
            say(process, AdminAnswer(2, "copy"))
        os._exit(0)
    os._exit(3)
