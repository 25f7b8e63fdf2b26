"""Turns results into messages: encodes the body as the stage or the handler says, and inherits properties.

Runs in a Consumer, where the message is computed; made by the worker. Raises `UnencodableError` and `OversizedError`,
which fail the message: then none of several results is published.
"""

import struct
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, aclosing, closing, contextmanager
from typing import Any

import msgspec

from mqworker import signing
from mqworker.amqp import headers
from mqworker.amqp.fingerprint import fingerprint
from mqworker.amqp.labels import derived_id
from mqworker.amqp.properties import Properties, encode_value, header_name
from mqworker.config.model import BrokerConfig, StageConfig
from mqworker.ipc.consumer_messages import Item, ResultMessage
from mqworker.jobs.async_chain import AsyncSeveral
from mqworker.jobs.codecs import BINARY, OversizedError, UnencodableError, encode, encode_as
from mqworker.jobs.content_types import is_binary
from mqworker.jobs.result import MOST_BYTES, Result, Several

OVERHEAD = 512  # bytes that count for each of several results until its properties are made
_DOUBLE = struct.Struct(">d")
_FIRST = encode_value(1)
_DURATION, _ATTEMPT = header_name(headers.DURATION), header_name(headers.ATTEMPT)


Encoded = tuple[
    bytes, str, Result | None
]  # body, content type, what the handler wishes; a plain tuple, because one is made for each result


class EncodedAll(list[Encoded]):
    """The results of a message that yields."""


class ResultMessages:
    """See the module head."""

    def __init__(self, stage: str, config: StageConfig, broker: BrokerConfig) -> None:
        self._stage = stage
        self._config = config
        self._largest = broker.max_message_size
        self._stamp: dict[str, bytes] = {}  # headers of every result, if the stage stamps them (its option `stamp`)
        self._same = b""  # the first two of them, encoded; they are fixed for a generation

    def begin_generation(self, generation: int) -> None:
        """Stamp results with this generation from now on, if the stage stamps them."""
        if self._config.stamp == "none":
            return
        self._stamp = {headers.STAGE: encode_value(self._stage), headers.GENERATION: encode_value(generation)}
        self._same = b"".join(header_name(name) + field for name, field in self._stamp.items())

    def encode_all(self, values: Several, alarm: AbstractContextManager[None]) -> EncodedAll:
        """Encode several results, each as soon as it is computed; `alarm` postpones the soft time limit during that."""
        size, found = 0, EncodedAll()
        with closing(values):
            for number, value in enumerate(values, 1):
                with alarm, _naming(number):
                    found.append(self.encode(value))
                size += len(found[-1][0]) + OVERHEAD
                self._check(number, size)
        return found

    async def encode_all_async(self, values: AsyncSeveral) -> EncodedAll:
        """Like `encode_all`, on a loop."""
        size, number, found = 0, 0, EncodedAll()
        async with aclosing(values):
            async for value in values:
                number += 1
                with _naming(number):
                    found.append(self.encode(value))
                size += len(found[-1][0]) + OVERHEAD
                self._check(number, size)
        return found

    def _check(self, number: int, size: int) -> None:
        limit = self._config.max_results_bytes
        if size > limit:
            raise OversizedError(
                f"the first {number:,} results have {size:,} bytes with their headers;"
                f" max_results_bytes allows {limit:,}"
            )

    def encode(self, value: Any) -> Encoded:
        """Encode one result."""
        wishes = value if isinstance(value, Result) else None
        if wishes is None:
            body, content_type = encode(value, self._config.codec, nan=self._config.nan)
        elif wishes.content_type is None:
            body, content_type = encode(wishes.body, self._config.codec, nan=self._config.nan)
        else:
            content_type = wishes.content_type
            body = encode_as(wishes.body, content_type, nan=self._config.nan)
        if len(body) > self._largest:
            raise OversizedError(f"the result has {len(body):,} bytes; the broker takes {self._largest:,}")
        return body, content_type, wishes

    def one(self, item: Item, properties: Properties, attempt: int, duration: float, result: Encoded) -> ResultMessage:
        """Return the message for a single result; changes the properties, which are the input's."""
        self._inherit(item, properties, attempt, duration)
        if properties.reply_to:
            properties.headers[headers.OUTCOME] = "result"
        return self._message(properties, result)

    def several(
        self, item: Item, properties: Properties, attempt: int, duration: float, results: EncodedAll
    ) -> tuple[ResultMessage, ...]:
        """Return the messages for several results; their ids are the input's with .1, .2 and so on."""
        self._inherit(item, properties, attempt, duration)
        if properties.reply_to:
            properties.headers[headers.OUTCOME] = "result"
        properties.headers[headers.PARTS] = len(results)
        block, message_id, size, messages = properties.encode(), properties.message_id or "", 0, []
        if len(message_id.encode(errors="surrogateescape")) + len(f".{len(results)}") > MOST_BYTES:
            message_id = fingerprint(b"", message_id.encode(errors="surrogateescape")).hex()[:32]
        for number, result in enumerate(results, 1):
            part = Properties.decode(block)
            part.message_id = f"{message_id}.{number}"
            part.headers[headers.PART] = number
            with _naming(number):
                messages.append(self._message(part, result))
            size += len(messages[-1].properties) + len(result[0])
            self._check(number, size)
        return tuple(messages)

    def nothing(self, item: Item, properties: Properties, attempt: int, duration: float) -> ResultMessage:
        """Return the reply that informs a caller that there is no result."""
        self._inherit(item, properties, attempt, duration)
        properties.headers[headers.OUTCOME] = "dropped"
        properties.content_type = None
        return ResultMessage(_block(properties), None)

    def _inherit(self, item: Item, properties: Properties, attempt: int, duration: float) -> None:
        """Turn the properties of an input into those of a result."""
        derived = ""
        if not properties.message_id:
            derived = derived_id(properties, item.properties, item.body, self._config.input.queue)
        if properties.headers:
            headers.strip_for_result(properties)
        properties.content_encoding = properties.expiration = properties.user_id = None
        properties.delivery_mode = 2
        properties.timestamp = int(time.time())
        table = properties.headers
        if derived:
            properties.message_id, table[headers.DERIVED_ID] = derived, True
        stamp = self._stamp
        if not stamp:
            return
        stamp[headers.DURATION] = milliseconds = b"d" + _DOUBLE.pack(int(duration * 1e6 + 0.5) / 1000)
        stamp[headers.ATTEMPT] = number = _FIRST if attempt == 1 else encode_value(attempt)
        table.stamp(stamp, self._same + _DURATION + milliseconds + _ATTEMPT + number)

    def _message(self, properties: Properties, result: Encoded) -> ResultMessage:
        body, properties.content_type, wishes = result
        if self._config.codec == "pickle" and (wishes is None or wishes.content_type is None):  # only our own pickles
            properties.headers[headers.SIGNATURE] = signing.sign(body, self._config.pickle_keys[0])
        properties.content_encoding = BINARY if is_binary(properties.content_type) else None
        if wishes is None:
            return ResultMessage(_block(properties), body)
        reply, caller, correlation_id = b"", properties.reply_to, properties.correlation_id
        _wish(properties, wishes)
        if caller and (properties.correlation_id, properties.expiration) != (correlation_id, None):
            reply = _block(msgspec.structs.replace(properties, correlation_id=correlation_id, expiration=None))
        return ResultMessage(_block(properties), body, wishes.routing_key, reply)


@contextmanager
def _naming(number: int) -> Iterator[None]:
    """Add the number of the result that is at fault to errors."""
    try:
        yield
    except (UnencodableError, OversizedError) as error:
        raise type(error)(f"result {number}: {error}") from None


def _block(properties: Properties) -> bytes:
    properties.reply_to = None
    block = properties.encode()
    if len(block) > headers.ROOM:
        raise OversizedError(f"properties and headers have {len(block):,} bytes; {headers.ROOM:,} can be published")
    return block


def _wish(properties: Properties, wishes: Result) -> None:
    """Set what the handler wishes; raises UnencodableError for a header that only mqworker may set."""
    table = properties.headers
    for name, value in wishes.headers.items():
        if name.startswith(headers.PREFIX):
            raise UnencodableError(f"the header {name!r} cannot be set: names with {headers.PREFIX!r} are mqworker's")
        if value is None:
            table.pop(name, None)
            continue
        try:
            table[name] = value
        except Exception as error:  # noqa: BLE001 - the value may be anything
            raise UnencodableError(f"the header {name!r} cannot be encoded: {error}") from None
    if wishes.priority is not None:
        properties.priority = wishes.priority
    if wishes.expiration is not None:
        properties.expiration = str(int(wishes.expiration * 1000))
    if wishes.type is not None:
        properties.type = wishes.type
    if wishes.correlation_id is not None:
        properties.correlation_id = wishes.correlation_id
