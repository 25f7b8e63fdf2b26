"""User code finds in a Consumer what it finds in any Python process."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.support.embedded import DEAD, OUTPUT, Client, config
from tests.support.service import gone
from tests.support.supervised import Supervised
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

HANDLER = """\
import atexit, logging, logging.config, multiprocessing, os, pathlib, signal, sys, time

multiprocessing.set_start_method("fork")  # an error where somebody has chosen already
atexit.register(lambda: pathlib.Path("atexit").write_text("done"))


def spin(_):
    while True:
        time.sleep(60)


def handle(body, log):
    match body["how"]:
        case "terminate":
            child = multiprocessing.Process(target=spin, args=(0,))
            child.start()
            child.terminate()
            child.join(20)
            return {"code": child.exitcode}
        case "pool":
            with multiprocessing.Pool(2) as pool:
                pool.map_async(spin, range(2))
            return {"left": True}
        case "name":
            reading, writing = os.pipe()
            if not os.fork():
                os.write(writing, pathlib.Path("/proc/self/comm").read_bytes())
                os._exit(0)
            return {"comm": os.read(reading, 20).decode().strip()}
        case "log in a fork":
            if not os.fork():
                logging.getLogger("forked").warning("x" * 100_000)
                os._exit(0)
            return {"pid": os.wait()[1]}
        case "silence":
            logging.config.dictConfig({"version": 1})
            logging.basicConfig(force=True, level="ERROR")
            logging.disable(logging.CRITICAL)
        case "environment":
            return {"safe": os.environ.get("PYTHONSAFEPATH"), "root": os.getcwd()}
    log.warning("said %s", body["n"])
    return {"said": body["n"]}
"""


def test_user_code_finds_plain_python(service):
    """Forked children can be ended and have their own name, logging cannot be silenced, atexit runs; nobody dies."""
    running = service(config(consumers=1), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        for how in ("terminate", "pool", "name", "log in a fork", "silence", "environment", "say"):
            client.send(1, how=how)
        wait_for(lambda: client.ready(OUTPUT) == 7, 60, "seven results")
        results = [result.body for result in client.results()]
        assert client.ready(DEAD) == 0
    assert results[0] == {"code": -signal.SIGTERM}
    assert results[1] == {"left": True}
    assert results[2]["comm"].startswith("python")
    assert results[3] == {"pid": 0}
    assert results[5]["safe"] is None
    said = [event["msg"] for event in running.events() if event["msg"].startswith("said ")]
    assert said == [f"said {results[4]['said']}", f"said {results[6]['said']}"]
    assert running.stop() == 0
    assert (running.folder / "atexit").read_text() == "done"
    assert not [event for event in running.events() if event["event"] == "consumer_ended" and event["level"] != "debug"]


BROKEN = "raise RuntimeError('this is not the module that was meant')\n"
NAMES = ("mqworker", "signal", "struct", "socket", "json", "selectors", "msgspec", "multiprocessing", "xmlrpc")
FILES = {f"{name}.py": BROKEN for name in NAMES} | {"jobs.py": "def handle(body):\n    return body\n"}
COMMAND = [str(Path(sys.executable).parent / "mqworker")]  # `python -m` puts the working folder on the path


def test_files_beside_the_configuration_do_not_replace_pythons(service):
    """A user's mqworker.py, signal.py and struct.py are theirs: run and check import Python's own."""
    running = service(config(), FILES)
    running.command = COMMAND
    running.start()
    with Client(running) as client:
        client.send(3)
        client.finish()
    checked = running.cli("check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert running.stop() == 0


LOADER = """\
import multiprocessing, os, queue, signal, sys, threading, time

LOOK = 5.0  # seconds between looks at the other side, as torch has it


def work(numbers, results, done):
    parent = os.getppid()  # from Python 3.14 on it is a fork server
    while os.getppid() == parent:
        try:
            number = numbers.get(timeout=LOOK)
        except queue.Empty:
            continue
        if number is None or done.is_set():
            break
        results.put((number, bytes(200_000)))  # more than a pipe holds: the worker waits until somebody reads
    if done.is_set():
        results.cancel_join_thread()
        results.close()


def pin(results, pinned, done):
    while not done.is_set():
        try:
            result = results.get(timeout=LOOK)
        except queue.Empty:
            continue
        if result is None or done.is_set():
            return
        pinned.put(result)


def look(*_):
    pass  # torch raises here if a worker was killed


class Loader:
    '''As torch's DataLoader: daemonic workers, a queue of numbers each, a thread that pins, the end in __del__.'''

    def __init__(self, workers=2, prefetch=4):
        self.results, self.pinned = multiprocessing.Queue(), queue.Queue()
        self.done, self.pinning_done = multiprocessing.Event(), threading.Event()
        self.results.cancel_join_thread()
        self.queues, self.workers, self.sent = [], [], 0
        for _ in range(workers):
            numbers = multiprocessing.Queue()
            numbers.cancel_join_thread()
            arguments = (numbers, self.results, self.done)
            worker = multiprocessing.Process(target=work, args=arguments, daemon=True)
            worker.start()
            self.queues.append(numbers)
            self.workers.append(worker)
        arguments = (self.results, self.pinned, self.pinning_done)
        self.thread = threading.Thread(target=pin, args=arguments, daemon=True)
        self.thread.start()
        signal.signal(signal.SIGCHLD, look)
        for _ in range(workers * prefetch):
            self.send()

    def send(self):
        self.queues[self.sent % len(self.queues)].put(self.sent)
        self.sent += 1

    def __iter__(self):
        return self

    def __next__(self):
        result = self.pinned.get(timeout=60)
        self.send()
        return result

    def __del__(self):
        self.pinning_done.set()
        self.results.put(None)
        self.thread.join()
        self.done.set()
        for numbers in self.queues:
            numbers.put(None)
        for worker in self.workers:
            worker.join(LOOK)
        for numbers in self.queues:
            numbers.cancel_join_thread()
            numbers.close()
        for worker in self.workers:
            if worker.is_alive():
                worker.terminate()


kept = []


def handle(body):
    loader = Loader()
    pids = [worker.pid for worker in loader.workers]
    for number, data in loader:
        if body["how"] == "raise":
            raise ValueError(f"left at {number}")
        break
    if body["how"] == "keep":
        kept.append(loader)
    return {"pids": pids, "got": len(data), "consumer": os.getpid()}
"""


def ended(pid: int) -> bool:
    """Whether a process is gone; its parent need not have asked how."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def test_a_loader_that_is_left_early_ends_with_its_message_or_its_consumer(service):
    """Workers, queues and a thread as torch's DataLoader has them hold up no message and no stop."""
    running = service(config("retry = { max_attempts = 1 }", consumers=1), {"jobs.py": LOADER}).start()
    with Client(running) as client:
        for how in ("leave", "raise", "leave", "keep"):
            client.send(1, how=how)
        wait_for(lambda: client.ready(OUTPUT) == 3 and client.ready(DEAD) == 1, 60, "four outcomes")
        results = [result.body for result in client.results()]
    assert {(result["got"], result["consumer"]) for result in results} == {(200_000, results[0]["consumer"])}
    for pid in (*results[0]["pids"], *results[1]["pids"]):
        wait_for(lambda pid=pid: ended(pid), 20, "the workers of a loader that was left")
    assert not any(map(ended, results[2]["pids"]))
    assert running.stop() == 0
    gone(running)
    ends = [event for event in running.events() if event["event"] == "consumer_ended"]
    assert not [event for event in ends if event["level"] != "debug"]  # it left by itself, nobody killed it


PANIC = """\
import os

import pycrdt


def handle(body):
    if body["n"] == 1:
        text = pycrdt.Doc().get("text", type=pycrdt.Text)
        text += "four"
        del text[0:99]  # Rust code panics: nobody has checked the range
    return {"pid": os.getpid()}
"""


def test_a_panic_of_rust_code_fails_its_message_and_no_other(service):
    """What PyO3 makes of a panic is told under its name, what Rust prints carries the message's id; nobody dies."""
    running = service(config("retry = { max_attempts = 1 }", consumers=1), {"jobs.py": PANIC}).start()
    with Client(running) as client:
        client.send(3)
        wait_for(lambda: client.ready(OUTPUT) == 2 and client.ready(DEAD) == 1, 60, "three outcomes")
        assert len({result.body["pid"] for result in client.results()}) == 1
    dead = running.event("dead")
    assert (dead["message_id"], dead["error_type"]) == ("1", "pyo3_runtime.PanicException")
    printed = [event for event in running.events() if event["event"] == "output" and "panicked at" in event["msg"]]
    assert [event["message_id"] for event in printed] == ["1"]
    assert running.stop() == 0


@pytest.mark.parametrize("look", [False, pytest.param(True, marks=[pytest.mark.release, pytest.mark.long])])
def test_files_beside_the_configuration_do_not_replace_the_watchdogs(look):
    """Under supervisord, with what `conf supervisor` prints, service and watchdog run beside the same files.

    The watchdog has loaded all that it needs when it judges stopwaitsecs; in the release it also misses an answer.
    """
    with Supervised(config(), FILES) as service:
        service.command = COMMAND
        printed = service.cli("conf", "supervisor").stdout
        assert f"directory={service.folder}\n" in printed
        hasty = re.sub("stopwaitsecs=[0-9]+", "stopwaitsecs=5", printed)
        service.conf.write_text(service.conf.read_text().partition("[program:")[0] + hasty)
        service.supervise()
        with Client(service) as client:
            client.send(3)
            client.finish()
        told = service.state / "watchdog.log"
        wait_for(lambda: "stopwaitsecs is 5" in told.read_text(), 30, "the watchdog to be at work")
        pid = service.running()
        if look:
            os.kill(pid, signal.SIGSTOP)
            wait_for(lambda: f"mqworker (pid {pid}) does not answer" in told.read_text(), 90, "the watchdog to look")
            os.kill(pid, signal.SIGCONT)
        assert "RuntimeError" not in told.read_text()
        service.shut()
