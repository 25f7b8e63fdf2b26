"""For users' tests: run jobs on a message, in the test's own process.

    from mqworker.testing import run_job

    def test_largest():
        assert run_job("primes:largest", {"n": 20}) == {"prime": 19}

Body and result go through the stage's codec as in a Consumer, so that a test fails where the stage would dead-letter.

Longer than most modules, because users import all of it from here: jobs, sources and shared objects.
"""

import asyncio
import inspect
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import msgspec

from mqworker.amqp.headers import SIGNATURE
from mqworker.amqp.properties import Headers, Properties
from mqworker.config.model import BrokerConfig, InputConfig, ProgramConfig, StageConfig
from mqworker.consumer.result_messages import ResultMessages
from mqworker.ipc.consumer_messages import Item
from mqworker.jobs.async_chain import AsyncRun, AsyncSeveral
from mqworker.jobs.chain import Chain, check_params, kind_of
from mqworker.jobs.codecs import decode, encode
from mqworker.jobs.item import NOWHERE, SourceItem
from mqworker.jobs.loading import Job, load_program, load_target, make_job, make_source, with_shared
from mqworker.jobs.message import Message
from mqworker.jobs.program import Programs
from mqworker.jobs.result import Several
from mqworker.shared_state import answers, values
from mqworker.shared_state.identity import identify, link_key, proxy_key
from mqworker.shared_state.instance import SharedClass, SharedInstance
from mqworker.shared_state.proxy import SharedProxy, encode_arguments
from mqworker.signing import sign
from mqworker.sources.ids import Ids
from mqworker.sources.items import publication

KEY = "the key of mqworker.testing's pickles"

JobLike = str | Callable[..., Any]
LinkLike = JobLike | Mapping[str, Any]


def run_job(
    jobs: LinkLike | Sequence[LinkLike],
    body: Any,
    params: Mapping[str, Any] | None = None,
    *,
    codec: str = "json",
    root: str | Path = ".",
    redelivered: bool = False,
    exchange: str = "",
    routing_key: str = "",
    attempt: int = 1,
    headers: Mapping[str, Any] | None = None,
    shared: "SharedObjects | Mapping[str, JobLike] | None" = None,
    **properties: Any,
) -> Any:
    """Return a chain's result for one message, after setup, run and teardown; None when a job dropped it.

    A job that yields gives the list of all results; a `Result` is returned as such. A job is "module:name", found in
    the folder `root`, or the function or class itself, or a program as in the configuration: {"exec": ["./solver"]},
    which has no time limit here. Jobs that are `async def` run on a loop that is made for them. `body` is a value,
    which is encoded by `codec` and decoded again; or, with the property `content_type`, the bytes as they would arrive.
    `properties` are AMQP's (message_id, correlation_id, ...). `shared` are the classes of shared objects by name, or
    `SharedObjects`, which keep their state between runs. Raises whatever a job raises, and `JobLoadError`,
    `ParamsError`, `UndecodableError`, `UnencodableError` or `OversizedError`; `AssertionError` if a shared object would
    give other answers in a replay.
    """
    headers, keys = dict(headers or {}), (KEY,) if codec == "pickle" else ()
    if "content_type" not in properties:
        body, properties["content_type"] = encode(body, codec)
        headers |= {SIGNATURE: sign(body, keys[0])} if keys else {}
    block = Properties(headers=Headers(headers), **properties).encode()
    message = Message(body, block, redelivered=redelivered, exchange=exchange, routing_key=routing_key, attempt=attempt)
    job_list = [jobs] if isinstance(jobs, str | Mapping) or callable(jobs) else jobs
    objects = shared if isinstance(shared, SharedObjects) else SharedObjects(shared or {}, root)
    source = InputConfig(queue="test")
    stage = StageConfig(input=source, jobs=("test:test",), codec=cast("Any", codec), pickle_key=keys or None)
    loaded = [_job(job, root, objects) for job in job_list]
    programs = Programs("test", stage) if any(job.program is not None for job in loaded) else None
    chain = Chain(loaded, params or {}, "test", shared=objects, programs=programs)
    messages = ResultMessages("test", stage, BrokerConfig())
    messages.begin_generation(1)
    item = Item(1, block, body, redelivered, exchange, routing_key)

    def checked(result: Any) -> Any:
        """Make the message that would be published."""
        messages.one(item, Properties.decode(block), attempt, 0.0, messages.encode(result))
        return result

    async def aside(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    async def run_async(value: Any) -> Any:
        local = chain.local(params or {}, objects, programs, aside)
        await chain.setup_common()
        try:
            local.setup(common=False)
            try:
                objects.begin(stage, message.properties, block, item.body)
                result = await AsyncRun(local, message, None, aside).run(value)
                several = isinstance(result, AsyncSeveral)
                made = [checked(each) async for each in result] if isinstance(result, AsyncSeveral) else result
                objects.check_replay()
                return made if made is None or several else checked(made)
            finally:
                local.teardown()
        finally:
            await chain.teardown_async()

    def decoded() -> Any:
        return decode(
            *(body, message.content_type, message.content_encoding, codec),
            compression=message.headers.get("compression"),
            forced="bytes" if chain.takes_bytes else None,
            keys=keys,
            signature=message.headers.get(SIGNATURE),
        )

    if kind_of(loaded, 1) == "tasks":
        return asyncio.run(run_async(decoded()))
    chain.setup()
    try:
        value = decoded()
        objects.begin(stage, message.properties, block, item.body)
        result = chain.run(value, message)
        made = [checked(each) for each in result] if isinstance(result, Several) else result
        objects.check_replay()
        return made if made is None or isinstance(result, Several) else checked(made)
    finally:
        chain.teardown()


def run_source(
    job: JobLike,
    params: Mapping[str, Any] | None = None,
    *,
    position: Any = None,
    due: datetime | None = None,
    most: int | None = None,
    codec: str = "json",
    root: str | Path = ".",
) -> list[SourceItem]:
    """Return the items of a source: what its generator yields, at most `most`, or what it makes of a tick.

    Whatever it yields is an `mqworker.Item` here. `position` is the one that was stored last, `due` the tick: with one
    it counts as scheduled. Each is made into a message, with its id. Raises what the source raises, or what ends it.
    """
    target, module = load_target(job, root) if isinstance(job, str) else (job, _module(job))
    made = make_source(target, module, _spec(job), scheduled=due is not None)
    validated = check_params([made], params or {}).get(made.spec)
    log = logging.getLogger("mqworker.job.test")
    known = {"position": position, "params": validated, "log": log, "due": due}
    result = made.target(**{name: known[name] for name in made.arguments})
    if due is None and not hasattr(result, "__next__"):
        raise TypeError(f"a source without every or cron must yield its items, but {made.spec} returned one")
    stage = StageConfig(
        input=InputConfig(queue="test"),
        jobs=("test:test",),
        codec=cast("Any", codec),
        pickle_key=KEY if codec == "pickle" else None,
    )
    ids = Ids("test", "run", NOWHERE if position is None else position)
    values = result if hasattr(result, "__next__") else iter([] if result is None else [result])
    items: list[SourceItem] = []
    try:
        while most is None or len(items) < most:
            value = next(values)
            if value is not None:
                item = value if isinstance(value, SourceItem) else SourceItem(value)
                publication(item, ids.of(item), stage, BrokerConfig())
                items.append(item)
    except StopIteration:
        pass
    finally:
        if hasattr(values, "close"):
            values.close()
    return items


class SharedObjects:
    """Shared objects in a test's own process, called as in production: what they receive and return is encoded.

        shared = SharedObjects({"neighbours": NeighbourRule}, now=0.0)
        run_job(handle, {"cid": 7}, shared=shared)
        assert shared["neighbours"].heard == {...}
        shared.now += 300
        shared.tick()

    A message that runs again, with the same `message_id` and body, gets the answers of its first run, as in production;
    a message without an id is one of its own. `now` is what methods get as `now`, in seconds since the epoch; None: the
    clock's.
    """

    def __init__(self, classes: Mapping[str, JobLike], root: str | Path = ".", *, now: float | None = None) -> None:
        """`classes`: by the name of the object; a class with `shared = True` that is a link needs none."""
        self.now = now
        self.specs = {name: _spec(job) for name, job in classes.items()}
        self._classes = {name: job for name, job in classes.items() if not isinstance(job, str)}
        self._root = Path(root)
        self._instances: dict[str, SharedInstance] = {}
        self._again: dict[str, SharedInstance] = {}  # the same, made again
        self._params = b"{}"
        self._remembered: dict[tuple[str, bytes, bytes], bytes] = {}  # object, message, call -> answer
        self._message = b""  # the key of the message that runs; empty: without an id
        self._before: Counter[tuple[str, bytes]] = Counter()  # equal calls of this run
        self._calls: list[tuple[str, str, bytes, bytes, float, bytes]] = []  # name, method, body, params, now, answer
        self._log = logging.getLogger("mqworker.job.test")

    def __getitem__(self, name: str) -> Any:
        """Return an object, to look at its state."""
        return self._instance(name).state

    def add(self, name: str, job: JobLike) -> None:
        """Let an object be of this class, if there is none of its name."""
        if name not in self.specs:
            self.specs[name] = _spec(job)
            if not isinstance(job, str):
                self._classes[name] = job

    def begin(self, config: StageConfig, properties: Properties, block: bytes, body: bytes) -> None:
        """Let the calls from now on belong to this message."""
        key, has_id = identify(config, properties, block, body)
        self._message = key if has_id else b""
        self._before.clear()

    def link(self, name: str, link: str, value: Any) -> Any:
        """Call `handle` of an object, as a link of the chain."""
        self.add(name, link.partition("#")[0])
        part = self._before[name, link.encode()]
        self._before[name, link.encode()] += 1
        made = self._call(name, "", values.encode(value, "the argument"), link_key(link, part))
        return answers.result(made, value, f"{name}.handle")

    def proxy(self, name: str) -> SharedProxy:
        """Return what a handler gets by an argument of the object's name."""
        return SharedProxy(_Calls(self, name))

    def use_params(self, params: Mapping[str, Any]) -> None:
        """Pass these parameters with the calls from now on."""
        self._params = msgspec.json.encode(params)

    def tick(self) -> None:
        """Call `tick` of every object that was called so far; whatever it raises passes through."""
        now = self._time()
        for name, instance in self._instances.items():
            if instance.kind.has("tick"):
                instance.state.tick(now)
                self._calls.append((name, "tick", b"", b"", now, b""))

    def check_replay(self) -> None:
        """Make the calls since the last check again, on objects of their own; raises AssertionError if one differs."""
        calls, self._calls = self._calls, []
        for name, method, body, params, now, answer in calls:
            if name not in self._again:
                self._again[name] = self._new(name)
            if method == "tick":
                self._again[name].state.tick(now)
                continue
            other = self._again[name].call(method, body, params, now)
            assert answers.is_equal(answer, other), (
                f"{method or 'handle'} of {name} gives another answer in a replay: it depends on something else than"
                " its state, its arguments and `now`"
            )

    def _call(self, name: str, method: str, body: bytes, call: bytes) -> bytes:
        key = name, self._message, call
        if self._message and key in self._remembered:
            return self._remembered[key]
        now = self._time()
        answer = self._instance(name).call(method, body, self._params, now)
        self._calls.append((name, method, body, self._params, now, answer))
        if answers.is_remembered(answer):
            self._remembered[key] = answer
        return answer

    def _proxy_call(self, name: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        body, canonical = encode_arguments(method, args, kwargs)
        same = name, method.encode() + b" " + canonical
        call = proxy_key(method, canonical, self._before[same])
        self._before[same] += 1
        return answers.result(self._call(name, method, body, call), call=f"{name}.{method}")

    def _time(self) -> float:
        return time.time() if self.now is None else self.now

    def _instance(self, name: str) -> SharedInstance:
        if name not in self._instances:
            self._instances[name] = self._new(name)
        return self._instances[name]

    def target(self, name: str) -> tuple[Any, ModuleType | None]:
        """Return the class of an object, and its module."""
        if name in self._classes:
            return self._classes[name], _module(self._classes[name])
        return load_target(self.specs[name], self._root)

    def _new(self, name: str) -> SharedInstance:
        kind = SharedClass(*self.target(name), self.specs[name])
        return SharedInstance(kind, kind.new(), self._log)


class _Calls:
    """The calls of one object, as a proxy makes them."""

    def __init__(self, objects: SharedObjects, name: str) -> None:
        self.name = name
        self._objects = objects

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._objects._proxy_call(self.name, method, args, kwargs)


def _job(job: LinkLike, root: str | Path, shared: SharedObjects) -> Job:
    if isinstance(job, Mapping):
        return load_program(msgspec.convert(job, ProgramConfig).spec, root)
    target, module = load_target(job, root) if isinstance(job, str) else (job, _module(job))
    made = make_job(target, module, _spec(job), shared.specs)
    if made.shared:
        shared.add(made.shared, job)
    called = {name: shared.target(name) for name in sorted(made.arguments & shared.specs.keys())}
    return with_shared(made, called, shared.specs)


def _spec(job: JobLike) -> str:
    if isinstance(job, str):
        return job
    return f"{getattr(_module(job), '__name__', '')}:{getattr(job, '__qualname__', repr(job))}"


def _module(job: Any) -> ModuleType | None:
    return inspect.getmodule(job) or sys.modules.get(getattr(job, "__module__", ""))
