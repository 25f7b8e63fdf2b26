"""Named test signals for the kill matrix: reaching a step of a delivery's life kills or stops a chosen process.

Loaded by every Python process of a service whose PYTHONPATH names this folder; does nothing without
MQWORKER_TEST_MATRIX, the folder in which the harness arms one shot at a time. It wraps the methods in which the steps
happen as their modules are imported, and shortens the deadlines that the matrix would otherwise wait for. A shot is
claimed by creating a file, so that of several processes only one fires it, and is told before it is fired, because
the process that fires it may be its target.
"""

import contextlib
import functools
import importlib.abc
import importlib.machinery
import inspect
import json
import os
import sys
import time
from pathlib import Path

# Where each step happens: module, class, method, and which of its arguments is the lane concerned, if one is.
STEPS = (
    ("received", "mqworker.producer.intake", "Intake", "delivered", None),
    ("dispatched", "mqworker.producer.lane", "Lane", "feed", 0),
    ("computing", "mqworker.consumer.work", "Worker", "compute", None),
    ("computing", "mqworker.consumer.async_work", "AsyncWorker", "compute_async", None),
    ("handed up", "mqworker.producer.dispatch", "Dispatch", "lane_outcomes", 1),
    ("publishing", "mqworker.brokers.rabbitmq.publishing", "Publishing", "publish", None),
    ("publishing", "mqworker.brokers.sqlite.link", "SqliteLink", "publish", None),
    ("confirmed", "mqworker.producer.settlement", "Settlement", "confirmed", None),
    ("acked", "mqworker.brokers.rabbitmq.consuming", "Consuming", "ack", None),
    ("acked", "mqworker.brokers.sqlite.link", "SqliteLink", "ack", None),
)
# What would be waited for, in seconds; the product's own values are in these modules.
SHORT = {
    "mqworker.service.lifecycle": {"SILENT": 12},
    "mqworker.producer.life": {"PULSE": 0.2},
    "mqworker.producer.limits": {"STALL": 1.0},
    "mqworker.producer.seat_limits": {"STALL": 1.0},
    "mqworker.brokers.rabbitmq.amqp_connection": {"ANSWER_DEADLINE": 1.5},
    "mqworker.brokers.rabbitmq.reconnector": {"PING_EVERY": 0.5, "LONGEST_DELAY": 1.0},
}


class Shots:
    """Counts the steps of this process since a shot was armed, and fires it when it is due."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shot = ""
        self._count = 0

    def due(self, step: str) -> dict | None:
        """The armed shot, if this is its occurrence of its step and nobody has claimed it."""
        try:
            shot = json.loads((self._folder / "armed").read_text())
        except FileNotFoundError:
            return None
        if shot["step"] != step:
            return None
        self._count = self._count + 1 if shot["id"] == self._shot else 1
        self._shot = shot["id"]
        if self._count != shot["nth"]:
            return None
        try:
            os.close(os.open(self._folder / f"{shot['id']}.claimed", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return None
        return shot

    def fire(self, shot: dict, lane: object) -> None:
        """Tell it, do it, and go on only when it has been done."""
        target = self._target(shot, lane)
        told = self._folder / f"{shot['id']}.fired"
        told.with_suffix(".new").write_text(str(target))
        told.with_suffix(".new").rename(told)
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, shot["signal"])
        end = time.monotonic() + 2
        while time.monotonic() < end and _state(target) not in "ZTX":
            time.sleep(0.001)

    def _target(self, shot: dict, lane: object) -> int:
        inside = shot["step"] == "computing"  # this is a Consumer; otherwise the Producer
        if shot["target"] == "broker":
            return shot["broker"]
        if shot["target"] == "producer":
            return os.getppid() if inside else os.getpid()
        if inside:
            return os.getpid()
        return lane.pid if lane is not None else _consumer()


def _consumer() -> int:
    """One of this Producer's."""
    for path in Path("/proc/self/task").glob("*/children"):
        for pid in map(int, path.read_text().split()):
            if Path(f"/proc/{pid}/comm").read_text() == "mqw-consumer\n":
                return pid
    raise LookupError("there is no Consumer")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _stepped(method, step: str, shots: Shots, position: int | None):
    @functools.wraps(method)
    async def awaited(*args, **kwargs):
        shot = shots.due(step)
        if shot is not None and shot["before"]:
            shots.fire(shot, None)
        answer = await method(*args, **kwargs)
        if shot is not None and not shot["before"]:
            shots.fire(shot, None)
        return answer

    @functools.wraps(method)
    def stepped(*args, **kwargs):
        shot = shots.due(step)
        if shot is None:
            return method(*args, **kwargs)
        lane = None if position is None else args[position]
        if shot["before"]:
            shots.fire(shot, lane)
        answer = method(*args, **kwargs)
        if not shot["before"]:
            shots.fire(shot, lane)
        return answer

    return awaited if inspect.iscoroutinefunction(method) else stepped


class _Loader(importlib.abc.Loader):
    """Runs a module, then changes it."""

    def __init__(self, inner, change) -> None:
        self._inner = inner
        self._change = change

    def create_module(self, spec):
        return self._inner.create_module(spec)

    def exec_module(self, module) -> None:
        self._inner.exec_module(module)
        self._change(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Puts the changing loader before the real one, for the modules that are to be changed."""

    def __init__(self, shots: Shots) -> None:
        self._shots = shots
        self._steps: dict[str, list[tuple[str, str, str, int | None]]] = {}
        for step, module, owner, method, position in STEPS:
            self._steps.setdefault(module, []).append((step, owner, method, position))

    def find_spec(self, name, path, target=None):
        if name not in self._steps and name not in SHORT:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, functools.partial(self._change, name))
        return spec

    def _change(self, name: str, module) -> None:
        for step, owner, method, position in self._steps.get(name, ()):
            known = getattr(getattr(module, owner), method)  # an AttributeError here means that the step has moved
            setattr(getattr(module, owner), method, _stepped(known, step, self._shots, position))
        for constant, value in SHORT.get(name, {}).items():
            getattr(module, constant)
            setattr(module, constant, value)


if os.environ.get("MQWORKER_TEST_MATRIX"):
    sys.meta_path.insert(0, _Finder(Shots(Path(os.environ["MQWORKER_TEST_MATRIX"]))))
