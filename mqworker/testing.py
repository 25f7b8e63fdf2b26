"""For users' tests: run jobs on a message, in the test's own process.

    from mqworker.testing import run_job

    def test_largest():
        assert run_job("primes:largest", {"n": 20}) == {"prime": 19}

Body and result go through the stage's codec as in a Consumer, so that a test fails where the stage would dead-letter.
"""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mqworker.amqp.properties import Headers, Properties
from mqworker.config.model import BrokerConfig, InputConfig, StageConfig
from mqworker.consumer.result_messages import ResultMessages
from mqworker.ipc.messages import Item
from mqworker.jobs.chain import Chain
from mqworker.jobs.codecs import decode, encode
from mqworker.jobs.loading import Job, load_job, make_job
from mqworker.jobs.message import Message
from mqworker.jobs.result import Several

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
    **properties: Any,
) -> Any:
    """Return a chain's result for one message, after setup, run and teardown; None when a job dropped it.

    A job that yields gives the list of all results; a `Result` is returned as such. A job is "module:name", found in
    the folder `root`, or the function or class itself. `body` is a value, which is encoded by `codec` and decoded
    again; or, with the property `content_type`, the bytes as they would arrive.
    `properties` are AMQP's (message_id, correlation_id, ...). Raises whatever a job raises, and `JobLoadError`,
    `ParamsError`, `UndecodableError`, `UnencodableError` or `OversizedError`.
    """
    if "content_type" not in properties:
        body, properties["content_type"] = encode(body, codec)
    block = Properties(headers=Headers(dict(headers or {})), **properties).encode()
    message = Message(body, block, redelivered=redelivered, exchange=exchange, routing_key=routing_key, attempt=attempt)
    job_list = [jobs] if isinstance(jobs, str) or callable(jobs) else jobs
    chain = Chain([_job(job, root) for job in job_list], params or {}, "test")
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
        if isinstance(result, Several):
            return [checked(each) for each in result]
        return None if result is None else checked(result)
    finally:
        chain.teardown()


def _job(job: JobLike, root: str | Path) -> Job:
    if isinstance(job, str):
        return load_job(job, root)
    module = inspect.getmodule(job) or sys.modules.get(getattr(job, "__module__", ""))
    return make_job(job, module, f"{getattr(module, '__name__', '')}:{getattr(job, '__qualname__', repr(job))}")
