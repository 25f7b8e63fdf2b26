"""For users' tests: run jobs on a message, in the test's own process.

    from mqworker.testing import run_job

    def test_largest():
        assert run_job("primes:largest", {"n": 20}) == {"prime": 19}

Body and result go through the stage's codec as in a Consumer, so that a test fails where the stage would dead-letter.
"""

import inspect
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from mqworker.amqp.properties import Headers, Properties
from mqworker.config.model import BrokerConfig, InputConfig, StageConfig
from mqworker.consumer.result_messages import ResultMessages
from mqworker.ipc.messages import Item
from mqworker.jobs.chain import Chain
from mqworker.jobs.codecs import decode, encode
from mqworker.jobs.loading import Job, load_job, make_job
from mqworker.jobs.message import Message
from mqworker.jobs.result import Several
from mqworker.shared_state import answers, values
from mqworker.shared_state.instance import SharedClass, SharedInstance

JobLike = str | Callable[..., Any]


def run_job(
    jobs: JobLike | Sequence[JobLike],
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
    the folder `root`, or the function or class itself. `body` is a value, which is encoded by `codec` and decoded
    again; or, with the property `content_type`, the bytes as they would arrive.
    `properties` are AMQP's (message_id, correlation_id, ...). `shared` are the classes of shared objects by name, or
    `SharedObjects`, which keep their state between runs. Raises whatever a job raises, and `JobLoadError`,
    `ParamsError`, `UndecodableError`, `UnencodableError` or `OversizedError`; `AssertionError` if a shared object would
    give other answers in a replay.
    """
    if "content_type" not in properties:
        body, properties["content_type"] = encode(body, codec)
    block = Properties(headers=Headers(dict(headers or {})), **properties).encode()
    message = Message(body, block, redelivered=redelivered, exchange=exchange, routing_key=routing_key, attempt=attempt)
    job_list = [jobs] if isinstance(jobs, str) or callable(jobs) else jobs
    objects = shared if isinstance(shared, SharedObjects) else SharedObjects(shared or {}, root)
    chain = Chain([_job(job, root, objects.specs) for job in job_list], params or {}, "test", shared=objects)
    stage = StageConfig(input=InputConfig(queue="test"), jobs=("test:test",), codec=cast("Any", codec))
    messages = ResultMessages("test", stage, BrokerConfig())
    item = Item(1, block, body, redelivered, exchange, routing_key)

    def checked(result: Any) -> Any:
        """Make the message that would be published."""
        messages.one(item, Properties.decode(block), attempt, 0.0, messages.encode(result))
        return result

    chain.setup()
    try:
        compression = message.headers.get("compression")
        value = decode(body, message.content_type, message.content_encoding, codec, compression=compression)
        result = chain.run(value, message)
        made = [checked(each) for each in result] if isinstance(result, Several) else result
        objects.check_replay()
        return made if made is None or isinstance(result, Several) else checked(made)
    finally:
        chain.teardown()


class SharedObjects:
    """Shared objects in a test's own process, called as in production: what they receive and return is encoded.

        shared = SharedObjects({"neighbours": NeighbourRule})
        run_job(handle, {"cid": 7}, shared=shared)
        assert shared["neighbours"].heard == {...}

    Every call belongs to a message of its own, so none is answered from memory.
    """

    def __init__(self, classes: Mapping[str, JobLike], root: str | Path = ".") -> None:
        """`classes`: by the name of the object; a class with `shared = True` that is a link needs none."""
        self.specs = {name: _spec(job) for name, job in classes.items()}
        self._root = Path(root)
        self._instances: dict[str, SharedInstance] = {}
        self._params = b"{}"
        self._calls: list[tuple[str, str, bytes, bytes, float, bytes]] = []  # name, method, body, params, now, answer
        self._log = logging.getLogger("mqworker.job.test")

    def __getitem__(self, name: str) -> Any:
        """Return an object, to look at its state."""
        return self._instance(name).state

    def link(self, name: str, link: str, value: Any) -> Any:
        """Call `handle` of an object, as a link of the chain."""
        self.specs.setdefault(name, link.partition("#")[0])
        return answers.result(self._call(name, "", values.encode(value, "the argument")), value)

    def proxy(self, name: str) -> Any:
        """Return what a handler gets by an argument of the object's name."""
        return _Proxy(self, name)

    def use_params(self, params: Mapping[str, Any]) -> None:
        """Pass these parameters with the calls from now on."""
        self._params = msgspec.json.encode(params)

    def check_replay(self) -> None:
        """Make all calls again, on new objects; raises AssertionError if one gives another answer."""
        again: dict[str, SharedInstance] = {}
        for name, method, body, params, now, answer in self._calls:
            if name not in again:
                again[name] = self._new(name)
            other = again[name].call(method, body, params, now)
            assert answers.is_equal(answer, other), (
                f"{method or 'handle'} of {name} gives another answer in a replay: it depends on something else than"
                " its state, its arguments and `now`"
            )

    def _call(self, name: str, method: str, body: bytes) -> bytes:
        now = time.time()
        answer = self._instance(name).call(method, body, self._params, now)
        self._calls.append((name, method, body, self._params, now, answer))
        return answer

    def _instance(self, name: str) -> SharedInstance:
        if name not in self._instances:
            self._instances[name] = self._new(name)
        return self._instances[name]

    def _new(self, name: str) -> SharedInstance:
        kind = SharedClass(self.specs[name], self._root)
        return SharedInstance(kind, kind.new(), self._log)


class _Proxy:
    def __init__(self, objects: SharedObjects, name: str) -> None:
        self._objects, self._name = objects, name

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            body = values.encode([[*args], kwargs], f"the arguments of {method}")
            return answers.result(self._objects._call(self._name, method, body))

        return call


def _job(job: JobLike, root: str | Path, shared: Mapping[str, str]) -> Job:
    if isinstance(job, str):
        return load_job(job, root, shared=shared)
    module = inspect.getmodule(job) or sys.modules.get(getattr(job, "__module__", ""))
    return make_job(job, module, _spec(job), shared)


def _spec(job: JobLike) -> str:
    if isinstance(job, str):
        return job
    module = inspect.getmodule(job) or sys.modules.get(getattr(job, "__module__", ""))
    return f"{getattr(module, '__name__', '')}:{getattr(job, '__qualname__', repr(job))}"
