"""A small service without process trees: a real loop in a thread, a real Control, the real server, and an Operator.

The Operator keeps the document by desired_state.change, as the Service does, and applies each revision at once unless
told not to; its broker admin answers from a table.
"""

import asyncio
import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mqworker.brokers.base import LinkState
from mqworker.config.load import Loaded, load
from mqworker.control import desired_state, generations
from mqworker.control.audit import ORIGIN, Attributed
from mqworker.control.chain import Add, ChainError, Edit, edited
from mqworker.control.control import Control
from mqworker.control.difference import difference
from mqworker.control.errors import ChangeRefused, ControlError
from mqworker.control.operator import ParamsForm, Stored
from mqworker.control.views import Snapshot, StageView
from mqworker.http.server import HttpServer
from mqworker.ipc import logs
from mqworker.ipc.admin_messages import BulkView
from mqworker.ipc.histogram import BUCKETS, Times
from mqworker.ipc.inspection import AskMessage, InspectionRequest, MessageAnswer
from mqworker.ipc.producer_messages import Held, HeldMessage
from mqworker.ipc.stage_status import ConsumerStatus, StageStatus
from tests.support.waiting import AMPLE

TOML = """
[service]
name = "test"
[control]
port = 0
[stages.alpha]
input = "alpha.in"
jobs = ["m:f"]
output = { queue = "alpha.out" }
consumers = 2
max_body = 200_000
params = { particles = 10 }
[stages.beta]
input = "beta/in"
jobs = ["m:g"]
consumers = 1
max_body = 1000
"""
GOOD_LINK = LinkState(connected=True, consuming=True, reason="")


def stage_status(stage: str = "alpha", **changes: Any) -> StageStatus:
    """Return a Producer's report on a healthy stage."""
    slot = ConsumerStatus(1, 4242, "busy", 1, 1, 7, time.monotonic() - 2, "id-1", 50_000_000, 1)
    values = {
        "stage": stage,
        "pid": 100,
        "state": "running",
        "revision": 0,
        "generation": 1,
        "switch": None,
        "link": GOOD_LINK,
        "listening": True,
        "problem": "",
        "crash_loop": False,
        "consumers": (slot,),
        "prefetch": 4,
        "held": 1,
        "dispatched": 2,
        "computed": 0,
        "settling": 3,
        "held_bytes": 10,
        "kept": 0,
        "backlog": 12,
        "output_backlog": 34,
        "counters": {"received": 9, "settled": 6, "result": 4, "dead": 2, "refused": 1, "exit_signal": 1},
        "times": {"process": Times((1,) * (len(BUCKETS) + 1), 3.5)},
        "p95": 0.1,
        "rate": 2.0,
        "last_settled": time.monotonic(),
        "stall": 0.01,
        "idle": False,
    }
    return StageStatus(**(values | changes))


class LittleBulk:
    """Operations that are done at once."""

    def __init__(self) -> None:
        self.all: tuple[BulkView, ...] = ()
        self.counts: dict[tuple[str, str, str], int] = {}

    async def begin(self, stage: str, selection: str, kind: str, count: int, by: str) -> BulkView:
        if selection != "5e1ec7":
            raise ControlError("unknown_selection", f"there is no selection {selection}")
        if count != 2:
            raise ControlError("count", f"2 dead letters are selected, not {count}")
        view = BulkView("0b", "done", stage, kind, by, 9, 2, 2, 0, 0, 0, "", 1.0, 2.0)
        self.all += (view,)
        self.counts[stage, kind, "done"] = 2
        return view

    async def cancel(self, operation: str) -> BulkView:
        for view in self.all:
            if view.operation == operation:
                return view
        raise ControlError("unknown_operation", f"there is no operation {operation}")


class LittleService:
    """See the module head."""

    def __init__(
        self,
        folder: Path,
        token: str = "",
        toml: str = TOML,
        hosts: tuple[str, ...] = (),
        part: tuple[str, ...] | None = None,
        read_token: str = "",
    ) -> None:
        path = folder / "mqworker.toml"
        path.write_text(toml)
        path.chmod(0o600)
        loaded = load(path, {}, {})
        self.loaded: Loaded = loaded if part is None else loaded.part(part)
        self._null = os.open(os.devnull, os.O_WRONLY)
        self.writer = logs.LogWriter("test", self._null)
        self.control = Control(self.loaded, self.writer)
        self.document, _told = desired_state.begin(None, self.loaded.config)
        self.statuses = {name: stage_status(name) for name in self.document.stages}
        self.applying = True
        self.applied = self.document.revision
        self.drained = False
        self.held: list[HeldMessage] = []
        self.held_refused = ""
        self.changes: list[Any] = []
        self.attributed: tuple[Attributed, ...] = ()
        self.requests: list[InspectionRequest] = []  # to Producers
        self.answers: dict[type, Any] = {}  # by the type of the question: a value, or an exception
        self.found: dict[str, MessageAnswer | ControlError] = {}  # what each stage knows of any message
        self.bulk = LittleBulk()
        self.admin: dict[str, Any] = {}  # verb to a value, an exception, or a function of the arguments
        self.asked: list[tuple[str, dict[str, Any], float]] = []
        self.loop = asyncio.new_event_loop()
        self._publishing = threading.Lock()
        self.server = HttpServer(self.control, "127.0.0.1", 0, self.loaded.socket, token, hosts, read_token)
        self.server.bind()
        self.publish()
        self.control.attach(self.loop, self)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        self.server.start()
        self.port = self.server.port

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.call_soon(self._beat)
        self.loop.run_forever()
        self.loop.close()

    def _beat(self) -> None:
        self.publish()
        self.loop.call_later(0.2, self._beat)

    def close(self) -> None:
        """Stop everything."""
        self.server.stop(2.0)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.writer.close(1.0)
        os.close(self._null)

    @contextlib.contextmanager
    def blocked(self) -> Iterator[None]:
        """Have the main loop stand still inside the block."""
        blocked, unblock = threading.Event(), threading.Event()
        self.loop.call_soon_threadsafe(lambda: (blocked.set(), unblock.wait(AMPLE)))
        assert blocked.wait(AMPLE)
        try:
            yield
        finally:
            unblock.set()

    def publish(self, **changes: Any) -> None:
        """Publish a snapshot of the current state, from the test or from the beat: never an older one after a newer."""
        with self._publishing:
            views = {
                name: StageView(name, desired, "running", self.statuses[name], "", 0, self.applied)
                for name, desired in self.document.stages.items()
            }
            values = {
                "time": time.monotonic(),
                "service": "test",
                "pid": os.getpid(),
                "started": 1.0,
                "state": "running",
                "paused": False,
                "document": self.document,
                "stages": views,
                "changes": self.attributed,
            }
            self.control.publish(Snapshot(**(values | changes)))

    def tell(self, stage: str, status: StageStatus) -> None:
        """Have a Producer send a report."""
        self.statuses[stage] = status
        self.publish()

    # --- Operator

    async def change(self, asked: desired_state.Change) -> int:
        if stage := getattr(asked, "stage", None):
            self._known(stage)
        self.changes.append(asked)
        before = self.document
        self.document = desired_state.change(self.document, asked, self.loaded.config)
        if (origin := ORIGIN.get()) is not None and self.document != before:
            self.attributed += (Attributed(origin, time.time(), difference(before, self.document)),)
        if self.applying:
            for name, desired in self.document.stages.items():
                if desired.candidate is not None:
                    end = desired_state.Commit(name, desired.candidate.code)
                    self.document = desired_state.change(self.document, end, self.loaded.config)
            self.applied = self.document.revision
        self.publish()
        return self.document.revision

    async def _checked(self, asked: desired_state.Change) -> Stored:
        before = self.document.stages[asked.stage]
        number, revision = before.next_number, await self.change(asked)
        now = self.document.stages[asked.stage]
        codes = (now.code, now.candidate.code if now.candidate is not None else 0)
        return Stored(revision, number if number in codes else 0)

    async def reload(self, stage: str, params: dict[str, Any], patience: float) -> Stored:
        self._known(stage)
        return await self._checked(desired_state.Reload(stage, None, self.document.stages[stage].params | params))

    async def go_back(self, stage: str, generation: int | None, patience: float) -> Stored:
        self._known(stage)
        version = generations.earlier(self.document.stages[stage], generation)
        if version is None:
            raise ControlError("refused", f"stage {stage} cannot go back")
        return await self._checked(desired_state.GoBack(stage, version))

    async def edit_jobs(
        self, stage: str, edit: Edit, params: dict[str, Any], expected: tuple[str, ...] | None, patience: float
    ) -> Stored:
        self._known(stage)
        desired = self.document.stages[stage]
        if expected is not None and str(desired.generation) not in expected:
            raise ControlError("conflict", f"stage {stage} is at generation {desired.generation}")
        try:
            jobs = edited(desired.jobs, edit)
        except ChainError as error:
            if error.field == "name" and not isinstance(edit, Add):
                raise ControlError("unknown_job", str(error)) from None
            raise ChangeRefused([(error.field, str(error))], []) from None
        return await self._checked(desired_state.SetJobs(stage, jobs, desired.params | params))

    async def patch_params(
        self, stage: str, patch: dict[str, Any], expected: tuple[str, ...] | None, patience: float
    ) -> Stored:
        self._known(stage)
        generation = self.document.stages[stage].generation
        if expected is not None and str(generation) not in expected:
            raise ControlError("conflict", f"stage {stage} is at generation {generation}")
        if patch.get("particles", 1) == 0:
            raise ChangeRefused([("particles", "must be at least 1")], [])
        return await self._checked(desired_state.SetParams(stage, self.document.stages[stage].params | patch))

    async def params_form(self, stage: str, patience: float) -> ParamsForm:
        self._known(stage)
        return ParamsForm(None, self.document.stages[stage].params, self.document.stages[stage].generation)

    async def rollback_params(self, stage: str, expected: tuple[str, ...] | None, patience: float) -> Stored:
        back = desired_state.rollback(self.document, stage)
        if back is None:
            raise ControlError("refused", f"stage {stage} has no earlier parameters")
        return await self._checked(back)

    async def set_limits(self, asked: desired_state.SetLimits, patience: float) -> Stored:
        return await self._checked(asked)

    async def ask_admin(self, verb: str, arguments: dict[str, Any], deadline: float) -> Any:
        self.asked.append((verb, arguments, deadline))
        answer = self.admin.get(verb, ControlError("unavailable", "the broker cannot be reached"))
        if callable(answer):
            answer = answer(arguments)
        if asyncio.iscoroutine(answer):
            answer = await asyncio.wait_for(answer, deadline)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask_held(self, stage: str, skip: str) -> Held:
        self._known(stage)
        if not skip:
            return Held(1, tuple(self.held), len(self.held))
        if self.held_refused:
            raise ControlError("refused", self.held_refused)
        for message in self.held:
            if message.message_id == skip:
                self.held.remove(message)
                return Held(1)
        raise ControlError("unknown_message", f"no message {skip} waits here")

    async def ask_producer(self, stage: str, request: InspectionRequest, deadline: float) -> Any:
        self._known(stage)
        answer = self.answers.get(type(request), ControlError("refused", f"stage {stage} has no processes"))
        if isinstance(answer, Exception):
            raise answer
        self.requests.append(request)
        return answer

    async def find_message(self, message_id: str) -> dict[str, MessageAnswer | ControlError]:
        self.requests.append(AskMessage(0, message_id))
        return self.found

    async def find_letters(self, message_id: str, deadline: float, *, look: bool) -> dict[str, Any]:
        found: dict[str, Any] = await self.ask_admin("dlq_find", {"message_id": message_id, "look": look}, deadline)
        return found

    async def drain(self) -> None:
        self.drained = True

    def _known(self, stage: str) -> None:
        if stage not in self.document.stages:
            raise ControlError("unknown_stage", f"there is no stage {stage}")

    # --- a client

    def connect(self, timeout: float = AMPLE) -> http.client.HTTPConnection:
        """Return a connection over TCP."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def connect_unix(self, timeout: float = AMPLE) -> http.client.HTTPConnection:
        """Return a connection over the unix socket."""
        connection = http.client.HTTPConnection("localhost", timeout=timeout)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(timeout)
        connection.sock.connect(str(self.loaded.socket))
        return connection

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> "Answer":
        """One request over TCP; a body that is not bytes goes as JSON."""
        return ask(self.connect(), method, path, body, **headers)

    def ask_unix(self, method: str, path: str, body: Any = None, **headers: str) -> "Answer":
        """Send one request over the unix socket."""
        return ask(self.connect_unix(), method, path, body, **headers)


class Answer(msgspec.Struct):
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The parsed body."""
        return json.loads(self.body)


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """Send one request over TCP; a body that is not bytes is sent as JSON."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        sent.setdefault("Content-Type", "application/json")
    try:
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()
