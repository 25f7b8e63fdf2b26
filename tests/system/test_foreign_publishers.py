"""Bodies from the clients that people really use, and results that these clients can read, with a real RabbitMQ node.

One service for the whole module. Its stage `work` returns what its handler saw; `data` returns what data code returns;
`packed` returns MessagePack; `tasks` answers Celery.
"""

import ast
import asyncio
import contextlib
import datetime as dt
import gzip
import json
import math
import os
import pickle
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import aio_pika
import celery
import kombu
import kombu.serialization
import msgspec
import pika
import pytest

from mqworker.amqp.properties import Headers, Properties
from tests.support.amqp import table
from tests.support.foreign import Client, Got
from tests.support.rabbitmq import RabbitNode
from tests.support.service import ServiceProcess
from tests.support.waiting import Patience

pytestmark = [
    pytest.mark.system,
    pytest.mark.rabbitmq,
    pytest.mark.xdist_group("foreign publishers"),  # they share a service
]

JOBS = """
import collections, datetime, decimal, pathlib

import numpy, pandas, pydantic


def show(body, message):
    return {"saw": repr(body), "headers": {name: repr(value) for name, value in message.headers.items()}}


class Model(pydantic.BaseModel):
    name: str
    when: datetime.datetime


FRAME = pandas.DataFrame({"a": [1, 2], "b": ["x", None], "t": pandas.to_datetime(["2024-02-29", None])})
DATA = {
    "frame": FRAME,
    "series": FRAME["a"] / 2,
    "timestamp": pandas.Timestamp("2024-02-29T01:02:03Z"),
    "pydantic": [Model(name="n", when=datetime.datetime(2024, 2, 29))],
    "deque": collections.deque([1, 2]),
    "range": range(3),
    "path": pathlib.Path("/a/b"),
    "keys": {decimal.Decimal("1.5"): 1, None: 2, True: 3, datetime.date(2024, 2, 29): 4},
    "datetime64": numpy.array(["2024-02-29T01:02:03"], "datetime64[ns]"),
    "nan": [float("nan"), numpy.inf, numpy.float32(0.5)],
    "bytes": bytes([0, 255]),
}


def data(body):
    return DATA[body]


def packed(body):
    return {"packed": body}


def task(body, message):
    args, kwargs, _ = body
    result = {"add": sum, "name": str}[message.headers["task"]](*args, **kwargs)
    return {"task_id": message.headers["id"], "status": "SUCCESS", "result": result, "traceback": None, "children": []}
"""
STAGES = {"work": "show", "data": "data", "packed": "packed", "tasks": "task"}
JSON = "application/json"
DEADLINE = 40.0  # seconds


class Foreign(NamedTuple):
    """What the tests share: the node, the service and the name of each stage's input."""

    rabbit: RabbitNode
    service: ServiceProcess
    queues: dict[str, str]

    @property
    def url(self) -> str:
        """Return the node's AMQP URL."""
        return self.rabbit.url()


@pytest.fixture(scope="module")
def foreign(rabbit, module_service) -> Iterator[Foreign]:
    """The running service; its queues are deleted afterwards."""
    prefix = f"foreign.{uuid.uuid4().hex[:8]}"
    queues = {stage: f"{prefix}.{stage}" for stage in STAGES}
    lines = ["[service]", 'log_format = "json"', "[control]", "port = 0", "[broker]", f'url = "{rabbit.url()}"']
    for stage, job in STAGES.items():
        lines += [f"[stages.{stage}]", f'input = "{queues[stage]}"', f'jobs = ["jobs:{job}"]', "consumers = 1"]
        lines += ["retry = { max_attempts = 1 }", f'output = {{ queue = "{queues[stage]}.out" }}']
        lines += ['codec = "msgpack"'] if stage == "packed" else []
    running: ServiceProcess = module_service("\n".join(lines), {"jobs.py": JOBS}).start()
    yield Foreign(rabbit, running, queues)
    assert running.stop() == 0
    with Client(rabbit.url()) as client:
        for queue in queues.values():
            for suffix in ("", ".out", ".dlq"):
                client.channel.queue_delete(queue + suffix)


@pytest.fixture
def client(foreign) -> Iterator[Client]:
    """A plain pika client; each test leaves all outputs and dead-letter queues empty."""
    with Client(foreign.url) as made:
        yield made
        for queue in foreign.queues.values():
            assert made.rest(f"{queue}.out") == made.rest(f"{queue}.dlq") == []


def seen(got: Got) -> Any:
    """Return the body that the handler of `work` got."""
    return ast.literal_eval(json.loads(got.body)["saw"])


def by_id(found: list[Got]) -> dict[str, Got]:
    """Return messages by their ids."""
    return {got.properties.message_id: got for got in found}


PICKLE = "application/x-python-serialize"


def test_kombu_publishes(foreign, client):
    """What kombu publishes, in each serializer and compression, reaches the handler decoded; a pickle as its bytes."""
    value = {"a": "ü", "n": [1, 2.5, None]}
    plain = {"text": "grün", "bytes": b"\x00\xff"}
    with kombu.Connection(foreign.url) as connection:
        producer = kombu.Producer(connection.channel(), routing_key=foreign.queues["work"])
        for compression in (None, "zlib", "gzip", "bzip2", "lzma"):
            for serializer in ("json", "pickle"):
                name = f"{serializer}-{compression}"
                producer.publish(value, serializer=serializer, compression=compression, message_id=name)
        for name, body in plain.items():
            producer.publish(body, message_id=name, headers={"tenant": name}, priority=3, expiration=600)
        packed = {"content_type": "application/x-msgpack", "content_encoding": "binary"}
        producer.publish(msgspec.msgpack.encode(value), message_id="msgpack", **packed)
        yaml = {"content_type": "application/x-yaml", "content_encoding": "utf-8"}
        producer.publish("a: 1", message_id="yaml", **yaml)
    found = by_id(client.take(f"{foreign.queues['work']}.out", 14, DEADLINE))
    for name, got in found.items():
        match name.partition("-")[0]:
            case "json" | "msgpack":
                assert seen(got) == value
            case "pickle":
                assert pickle.loads(seen(got)) == value
            case "yaml":
                assert seen(got) == b"a: 1"
            case _:
                assert seen(got) == plain[name]
                assert (got.headers["tenant"], got.properties.priority) == (name, 3)
        assert got.properties.content_encoding is None
        assert "compression" not in got.headers
    assert len(found) == 14


def test_kombu_reads_results(foreign, client):
    """A consumer of kombu decodes results that are JSON, bytes and, once it knows the name, MessagePack."""
    kombu.serialization.register("msgpack", None, msgspec.msgpack.decode, "application/msgpack", "binary")
    try:
        client.publish(foreign.queues["data"], b'"range"', content_type=JSON, content_encoding="utf-8")
        client.publish(foreign.queues["data"], b'"bytes"', content_type=JSON)
        client.publish(foreign.queues["packed"], b'"x"', content_type=JSON)
        found = []
        with kombu.Connection(foreign.url) as connection:
            queues = [kombu.Queue(f"{foreign.queues[stage]}.out", no_declare=True) for stage in ("data", "packed")]

            def keep(body: Any, message: kombu.Message) -> None:
                found.append(body)
                message.ack()

            with kombu.Consumer(connection.channel(), queues, callbacks=[keep]):
                patience = Patience(DEADLINE)
                while len(found) < 3 and not patience.over():
                    with contextlib.suppress(TimeoutError):
                        connection.drain_events(timeout=1)
    finally:
        kombu.serialization.unregister("msgpack")
    assert sorted(found, key=str) == [[0, 1, 2], b"\x00\xff", {"packed": "x"}]


@pytest.mark.parametrize("direct", [False, True], ids=["queue", "direct reply-to"])
def test_kombu_calls(foreign, client, direct):
    """A request of kombu is answered under its correlation id, in a queue of its own and by direct reply-to."""
    found = []
    with kombu.Connection(foreign.url) as connection:
        channel = connection.channel()
        if direct:
            queue = kombu.Queue("amq.rabbitmq.reply-to", no_declare=True, no_ack=True)
        else:
            queue = kombu.Queue(f"{foreign.queues['work']}.call", exclusive=True, auto_delete=True, no_ack=True)
        with kombu.Consumer(channel, [queue], callbacks=[lambda *got: found.append(got)], accept=["json"]):
            told = {"reply_to": queue.name, "correlation_id": "c-1", "message_id": "kombu"}
            kombu.Producer(channel).publish({"ask": 1}, routing_key=foreign.queues["work"], **told)
            patience = Patience(DEADLINE)
            while not found and not patience.over():
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=1)
    ((body, message),) = found
    assert ast.literal_eval(body["saw"]) == {"ask": 1}
    assert message.properties["correlation_id"] == "c-1"
    assert message.headers["x-mqworker-outcome"] == "result"
    client.take(f"{foreign.queues['work']}.out", 1, DEADLINE)


def test_celery_sends_tasks(foreign, client):
    """A handler sees a Celery task as [args, kwargs, embed], its name and id in headers, and can answer its caller."""
    app = celery.Celery("foreign", broker=foreign.url, backend="rpc://", set_as_current=False)
    with app, contextlib.ExitStack() as ends:
        ends.callback(app.backend.result_consumer.stop)  # leaving the app leaves its connection open
        app.conf.task_compression = "bzip2"
        told = {"queue": foreign.queues["work"], "ignore_result": True, "task_id": "t-1"}
        app.send_task("shop.tasks.pay", args=[1, "ü"], kwargs={"a": None}, countdown=60, **told)
        (got,) = client.take(f"{foreign.queues['work']}.out", 1, DEADLINE)
        args, kwargs, embed = seen(got)
        assert (args, kwargs) == ([1, "ü"], {"a": None})
        assert embed == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
        headers = json.loads(got.body)["headers"]
        assert (headers["task"], headers["id"], headers["retries"]) == ("'shop.tasks.pay'", "'t-1'", "0")
        assert headers["eta"] != "None"  # a Celery worker would wait until then
        assert (got.headers["task"], got.headers["timelimit"]) == ("shop.tasks.pay", [None, None])
        assert got.properties.correlation_id == "t-1"
        answer = app.send_task("add", args=[[1, 2]], queue=foreign.queues["tasks"])
        assert answer.get(timeout=DEADLINE) == 3
        answer = app.send_task("name", args=[7], queue=foreign.queues["tasks"])
        assert answer.get(timeout=DEADLINE) == "7"
    client.take(f"{foreign.queues['tasks']}.out", 2, DEADLINE)


def message(body: bytes, id_: str, kind: str | None = None, encoding: str | None = None, **more) -> aio_pika.Message:
    """Return a message of aio-pika."""
    return aio_pika.Message(body, message_id=id_, content_type=kind, content_encoding=encoding, **more)


async def with_aio_pika(url: str, queue: str) -> dict[str, Any]:
    """Publish, read and call with aio-pika; return what came back, by the name of the message."""
    found = {}
    async with await aio_pika.connect(url) as connection, asyncio.timeout(DEADLINE):
        channel = await connection.channel(publisher_confirms=True)
        headers = {"tenant": "ü", "n": 200, "big": 1 << 40, "when": dt.datetime(2024, 2, 29, tzinfo=dt.UTC)}
        about = {"delivery_mode": aio_pika.DeliveryMode.PERSISTENT, "timestamp": dt.datetime.now(dt.UTC)}
        messages = {
            "json": message(b'{"a": 1}', "json", JSON, "utf-8", headers=headers, **about),
            "untyped": message(b"[1]", "untyped", expiration=dt.timedelta(minutes=10)),
            "bytes": message(b"\x00\xff", "bytes", "application/octet-stream"),
            "gzip": message(gzip.compress(b"[1]"), "gzip", JSON, "gzip", priority=9),
        }
        for sent in messages.values():
            await channel.default_exchange.publish(sent, queue)
        output = await channel.get_queue(f"{queue}.out", ensure=False)
        async with output.iterator() as iterator:
            async for got in iterator:
                await got.ack()
                found[got.message_id] = got
                if len(found) == len(messages):
                    break
        own = await channel.declare_queue(exclusive=True)
        direct = await channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
        for name, replies in {"by queue": own, "by direct reply-to": direct}.items():
            answers: asyncio.Queue[aio_pika.abc.AbstractIncomingMessage] = asyncio.Queue()
            tag = await replies.consume(answers.put, no_ack=True)
            call = message(b"2", "call", JSON, reply_to=replies.name, correlation_id=name)
            await channel.default_exchange.publish(call, queue)
            found[name] = await answers.get()
            await replies.cancel(tag)
    return found


def test_aio_pika(foreign, client):
    """aio-pika publishes, reads results with its own headers in them, and is answered, also by direct reply-to."""
    found = asyncio.run(with_aio_pika(foreign.url, foreign.queues["work"]))
    bodies = {"json": {"a": 1}, "untyped": [1], "bytes": b"\x00\xff", "gzip": [1]}
    for name, body in (bodies | {"by queue": 2, "by direct reply-to": 2}).items():
        assert ast.literal_eval(json.loads(found[name].body)["saw"]) == body
        assert (found[name].content_type, found[name].content_encoding) == (JSON, None)
        assert found[name].headers["x-mqworker-stage"] == "work"
        assert found[name].correlation_id == (name if name.startswith("by ") else None)
    sent = found["json"].headers
    assert (sent["tenant"], sent["n"], sent["big"]) == ("ü", 200, 1 << 40)
    assert sent["when"] == dt.datetime(2024, 2, 29, tzinfo=dt.UTC)
    client.take(f"{foreign.queues['work']}.out", 2, DEADLINE)


@pytest.fixture(scope="module")
def amqplib(tmp_path_factory) -> Path:
    """A folder with the client for Node and the amqplib that its package.json names."""
    folder = tmp_path_factory.mktemp("node") / "client"
    shutil.copytree(Path(__file__).parent.parent / "support/node", folder)
    absent = pytest.fail if os.environ.get("CI") else pytest.skip
    if not shutil.which("npm"):
        absent("there is no npm here; scripts/setup --system installs it")
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        absent(f"npm could not install amqplib: {done.stderr}")
    return folder


def test_amqplib(foreign, client, amqplib):
    """Node's amqplib publishes, reads results with its headers in them, and is answered, also by direct reply-to."""
    command = ["node", "client.js", foreign.url, foreign.queues["work"], f"{foreign.queues['work']}.out"]
    done = subprocess.run(command, cwd=amqplib, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    results = {result["messageId"]: result for result in told["results"]}
    bodies = {
        "node-json": {"text": "grün", "n": 1.5},
        "node-untyped": ["no type"],
        "node-bytes": b"\x00\xff",
        "node-gzip": {"packed": True},
    }
    assert {name: ast.literal_eval(result["body"]["saw"]) for name, result in results.items()} == bodies
    headers = results["node-json"]["headers"]
    for name, value in {"tenant": "ü", "n": 7, "big": 2**40, "half": 0.5, "yes": True, "nothing": None}.items():
        assert headers[name] == value
    assert (headers["list"], headers["table"]) == ([1, "a"], {"a": 1})
    assert headers["x-mqworker-stage"] == "work"
    for how, id_ in {"queue": "by-queue", "direct": "by-direct-reply-to"}.items():
        reply = told["replies"][how]
        assert ast.literal_eval(reply["body"]["saw"]) == {"ask": 1}
        assert (reply["correlationId"], reply["headers"]["x-mqworker-outcome"]) == (id_, "result")


ENVELOPE = {"messageId": "m", "messageType": ["urn:message:Shop:Paid"], "message": {"order": 1}, "headers": {}}
MASSTRANSIT = "application/vnd.masstransit+json"
SPRING = {"__TypeId__": "java.util.ArrayList", "__ContentTypeId__": "com.example.Order", "tenant": "t"}
SERIALIZED = b"\xac\xed\x00\x05t\x00\x01a"
SHAPES = {  # what other frameworks put into a message: body, what the handler gets, content type and encoding, headers
    "spring-json": (b'[{"id":1}]', [{"id": 1}], JSON, "UTF-8", SPRING),
    "spring-gzip": (gzip.compress(b"[1]"), [1], JSON, "gzip:UTF-8", {"springAutoDecompress": True}),
    "spring-gzip-3": (gzip.compress(b"[1]"), [1], JSON, "gzip, UTF-8", {"springAutoDecompress": True}),
    "spring-text": ("grün".encode("latin-1"), "grün", "text/plain", "ISO-8859-1", None),
    "spring-java": (SERIALIZED, SERIALIZED, "application/x-java-serialized-object", None, None),
    "masstransit": (
        json.dumps(ENVELOPE).encode(),
        ENVELOPE,
        MASSTRANSIT,
        None,
        {"Content-Type": MASSTRANSIT, "MT-Activity-Id": "00-1-1-00", "publishId": "1"},
    ),
    "nan": (json.dumps([math.inf]).encode(), "[inf]", JSON, None, None),
    "surrogate": (json.dumps(["a\ud83d"]).encode(), ["a\ud83d"], JSON, None, None),
    "gbk": ('{"a":"电"}'.encode("gbk"), {"a": "电"}, "application/json; charset=GBK", None, None),
    "text-json": (b"[1]", [1], "text/json", None, None),
    "jpeg": (b"\xff\xd8\xff", b"\xff\xd8\xff", "image/jpeg", None, None),
    "protobuf": (b"\x08\x01", b"\x08\x01", "application/x-protobuf", None, None),
    "xml": (b"<a/>", b"<a/>", "application/xml", None, None),
    "dapr": (b'{"a":1}', '{"a":1}', "text/plain", "UTF-8", None),  # JSON as text, as many send it: `decode` says so
    "dramatiq": (
        b'{"queue_name":"q","actor_name":"pay","args":[1],"kwargs":{},"options":{},"message_id":"1"}',
        {"queue_name": "q", "actor_name": "pay", "args": [1], "kwargs": {}, "options": {}, "message_id": "1"},
        None,
        None,
        None,
    ),
    "nservicebus": (b"[1]", [1], JSON, None, {"x-received-from": "uri=amqp://Node2,redelivered=,visit-count="}),
}
OF_THE_INPUT = {"__TypeId__", "__ContentTypeId__", "springAutoDecompress", "Content-Type", "x-received-from"}


def test_messages_of_other_frameworks(foreign, client):
    """Spring's, MassTransit's and other shapes reach the handler; what describes their body is not on the result."""
    for name, (body, _, content_type, content_encoding, headers) in SHAPES.items():
        told = {"content_type": content_type, "content_encoding": content_encoding, "headers": headers}
        client.publish(foreign.queues["work"], body, message_id=name, type="a.type", **told)
    found = by_id(client.take(f"{foreign.queues['work']}.out", len(SHAPES), DEADLINE))
    assert found.keys() == SHAPES.keys()
    for name, (_, expected, _, _, headers) in SHAPES.items():
        got = found[name]
        assert expected == json.loads(got.body)["saw"] if name == "nan" else seen(got) == expected
        assert (got.properties.content_type, got.properties.content_encoding) == (JSON, None)
        assert got.properties.type == "a.type"
        names = {key for key in got.headers if not key.startswith("x-mqworker-")}
        assert names == (headers or {}).keys() - OF_THE_INPUT


class Raw(pika.BasicProperties):
    """Properties as they are on the wire, for what pika does not send."""

    def __init__(self, properties: Properties) -> None:
        super().__init__()
        self._block = properties.encode()

    def encode(self) -> list[bytes]:
        return [self._block]


FIELDS = {  # types of headers that other clients send, as they are on the wire, and what the handler gets
    "x-amqp-1.0-properties": (b"S\0\0\0\3\0\xc0\xff", b"\0\xc0\xff"),  # no UTF-8
    "x-mqtt-publish-qos": (b"b\1", 1),
    "sequence": (b"s\0\5", 5),
    "unsigned": (b"i\xff\xff\xff\xff", (1 << 32) - 1),
    "price": (b"D\2\0\0\0\x4b", Decimal("0.75")),
}


def test_headers_that_stop_other_workers(foreign, client):
    """Texts that are no UTF-8, any size of number, and times in milliseconds reach the handler and stay as they are."""
    headers = Headers.decode(table([(name, field) for name, (field, _) in FIELDS.items()]))
    sent = Properties(headers=headers, timestamp=1_700_000_000_000, message_id="headers", delivery_mode=2)
    client.channel.basic_publish("", foreign.queues["work"], b"1", Raw(sent), mandatory=True)
    (got,) = client.take(f"{foreign.queues['work']}.out", 1, DEADLINE)
    shown = json.loads(got.body)["headers"]
    for name, (_, value) in FIELDS.items():
        assert shown[name] == repr(value)
        assert got.headers[name] == value
    assert got.properties.timestamp < 10_000_000_000  # when the result was made, in seconds


def test_bodies_that_stop_other_workers(foreign, client):
    """A body that is not what its type says is one dead letter with a sentence, and the next message is computed."""
    pickled = pickle.dumps({"args": [1]})
    bodies = {  # body, content type, content encoding, what the dead letter says
        "text": (b"\x08\xff", "text/plain", None, "not text in utf-8"),
        "json": (b"not JSON", JSON, None, "not JSON"),
        "empty": (b"", JSON, None, "it is empty"),
        "pickle": (pickled, None, None, "not JSON"),  # Dramatiq's PickleEncoder names no type
        "gzip": (b"[1]", JSON, "gzip", "the body is not gzip"),
        "zip": (b"PK", JSON, "zip:UTF-8", "the encoding 'zip' is not accepted"),  # Spring's ZipPostProcessor
        "batch": (b"\0\0\0\1[", JSON, "UTF-8", "not JSON"),  # Spring's batches
    }
    for name, (body, content_type, content_encoding, _) in bodies.items():
        told = {"content_type": content_type, "content_encoding": content_encoding, "message_id": name}
        client.publish(foreign.queues["work"], body, **told)
    client.publish(foreign.queues["work"], b"[1]", message_id="next")
    (got,) = client.take(f"{foreign.queues['work']}.out", 1, DEADLINE)
    assert (got.properties.message_id, seen(got)) == ("next", [1])
    dead = by_id(client.take(f"{foreign.queues['work']}.dlq", len(bodies), DEADLINE))
    for name, (body, content_type, content_encoding, sentence) in bodies.items():
        properties = dead[name].properties
        assert dead[name].headers["x-mqworker-reason"] == "undecodable"
        assert sentence in dead[name].headers["x-mqworker-message"]
        assert (dead[name].body, properties.content_type) == (body, content_type)
        assert properties.content_encoding == content_encoding


def test_results_of_data_code(foreign, client):
    """What pandas, pydantic and Python's own containers return arrives as plain JSON, bytes as bytes."""
    expected = {
        "frame": [{"a": 1, "b": "x", "t": "2024-02-29T00:00:00"}, {"a": 2, "b": None, "t": None}],
        "series": [0.5, 1.0],
        "timestamp": "2024-02-29T01:02:03Z",
        "pydantic": [{"name": "n", "when": "2024-02-29T00:00:00"}],
        "deque": [1, 2],
        "range": [0, 1, 2],
        "path": "/a/b",
        "keys": {"1.5": 1, "null": 2, "true": 3, "2024-02-29": 4},
        "datetime64": ["2024-02-29T01:02:03"],
        "nan": [None, None, 0.5],
    }
    for name in expected:
        client.publish(foreign.queues["data"], json.dumps(name).encode(), content_type=JSON, message_id=name)
    found = client.take(f"{foreign.queues['data']}.out", len(expected), DEADLINE)
    assert {got.properties.message_id: json.loads(got.body) for got in found} == expected
    client.publish(foreign.queues["data"], b'"bytes"', content_type=JSON)
    (got,) = client.take(f"{foreign.queues['data']}.out", 1, DEADLINE)
    assert (got.body, got.properties.content_type) == (b"\x00\xff", "application/octet-stream")
