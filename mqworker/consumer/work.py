"""Turns one delivery into one outcome: decodes, runs the chain, encodes, and handles every kind of failure.

Runs in a Consumer's main thread, where it owns SIGALRM for the soft time limit; or, in a Consumer that works on several
messages at once, in the thread or the task of one of them, without an alarm. It never raises because of a message,
except that SystemExit and KeyboardInterrupt end a serial Consumer, as a signal does, and are charged as a crash.
"""

import math
import os
import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from mqworker.amqp import headers
from mqworker.amqp.properties import MalformedProperties, Properties
from mqworker.config.model import BrokerConfig, StageConfig
from mqworker.consumer.alarm import Alarm, Uninterrupted
from mqworker.consumer.result_messages import EncodedAll, ResultMessages
from mqworker.errors import HardTimeLimit, Reject, Retry, SharedValueError, SoftTimeLimit
from mqworker.ipc.consumer_messages import Failure, Item, Outcome
from mqworker.ipc.frames import MAX_FRAME
from mqworker.ipc.pieces import take_out
from mqworker.jobs.chain import Chain
from mqworker.jobs.codecs import OversizedError, UndecodableError, UnencodableError, decode
from mqworker.jobs.failures import Described, describe
from mqworker.jobs.message import Message
from mqworker.jobs.place import place_of
from mqworker.jobs.result import Several

LARGEST = MAX_FRAME // 2  # bytes of one outcome
AHEAD = 1 << 20  # bytes of bodies that are decoded ahead of their turns

_encode = msgspec.msgpack.Encoder().encode


class RunOwner(Protocol):
    """Makes the calls of shared objects, and must know which message is being computed."""

    def ask_ahead(self, name: str, link: str, messages: Sequence[tuple[Item, Properties, Any]]) -> None:
        """Call an object's `handle` for the decoded bodies of several messages, which are computed afterwards."""

    def begin(self, item: Item, properties: Properties) -> None:
        """Note that this message is computed from now on."""

    def end(self) -> None:
        """Note that no message is being computed."""


class Worker:
    """Computes items with a chain; `soft_limit` and `generation` follow the chunks."""

    def __init__(
        self,
        chain: Chain,
        stage: str,
        config: StageConfig,
        broker: BrokerConfig,
        alarm: Alarm | Uninterrupted | None = None,
        shared: RunOwner | None = None,
        *,
        contained: bool = False,
    ) -> None:
        """`shared` makes the calls of shared objects. `contained`: whatever user code raises fails only its message."""
        self.soft_limit = 0.0
        self.hard_limit = 0.0  # only used for the handler's deadline
        self.generation = 0
        self.out_of_memory = False
        self.failed = False  # whether the last message failed
        self._chain = chain
        self._config = config
        self._form = "bytes" if chain.takes_bytes else config.decode  # codec of every body; None: by its type
        self._keys = config.pickle_keys
        self._messages = ResultMessages(stage, config, broker)
        self._alarm = alarm or Alarm()
        self._shared = shared
        self._bodies: dict[int, Any] = {}  # seq -> body that was decoded ahead
        self._pid = os.getpid()
        self._contained = contained

    def begin_generation(self, generation: int) -> None:
        """Stamp results with this generation from now on."""
        self.generation = generation
        self._messages.begin_generation(generation)

    @property
    def asks_ahead(self) -> bool:
        """Return whether `ask_ahead` would do anything."""
        return self._shared is not None and self._chain.first_link is not None

    def ask_ahead(self, items: Sequence[Item]) -> None:
        """If the chain begins with a shared link, call it for all messages of a chunk at once; never raises."""
        self._bodies.clear()
        if self._shared is None or self._chain.first_link is None:
            return
        asked: list[tuple[Item, Properties, Any]] = []
        size = 0
        for item in items if len(items) > 1 else ():
            size += len(item.body)
            if size > AHEAD:  # during this the first message is in hand, and would be charged for what happens
                break
            try:
                properties = Properties.decode(item.properties)
                if properties.content_encoding or "compression" in properties.headers:
                    continue  # it may be large when decompressed
                if self._keys and headers.SIGNATURE in properties.headers:
                    continue  # a pickle runs code, which must happen in its turn
                self._bodies[item.seq] = body = self._decode(item, properties)
            except Exception:  # noqa: BLE001, S112 - it will fail in its turn
                continue
            asked.append((item, properties, body))
        self._shared.ask_ahead(*self._chain.first_link, asked)

    def compute(self, item: Item) -> Outcome:
        """Compute one delivery, from the bytes of the input to the bytes of the result, and return its outcome."""
        began = time.monotonic()
        self.failed = False
        try:
            properties = Properties.decode(item.properties)
            value = self._run(item, properties, began)
            duration = time.monotonic() - began
            return self._outcome(item, properties, value, duration)
        except (SystemExit, KeyboardInterrupt) as error:
            if not self._contained:
                raise
            failure = self._failure(error)
        except BaseException as error:  # noqa: BLE001 - user code may raise anything, also a panic of Rust code
            failure = self._failure(error)
        return Outcome(item.seq, time.monotonic() - began, self.generation, failure=failure)

    def compute_encoded(self, item: Item, lost: MemoryError | OSError | None = None) -> tuple[bytes, list[bytes]]:
        """Compute a delivery; return the encoded outcome, and the large bodies that are sent before it.

        Nothing after this may fail because of the message, because the death would be charged to no message. `lost`
        says why its body is not there. If user code has damaged our descriptors, perhaps in this message, that error is
        raised: the Consumer ends, and the message, which is in hand, is charged.
        """
        if isinstance(lost, OSError):
            raise lost
        return self.encode(item, self.compute(item) if lost is None else self.refuse(item, lost))

    def encode(self, item: Item, outcome: Outcome) -> tuple[bytes, list[bytes]]:
        """Return an encoded outcome, and the large bodies that are sent before it; see `compute_encoded`."""
        outcome, large = take_out(outcome)
        try:
            encoded = _encode(outcome)
            error: Exception | None = None
        except Exception as raised:  # noqa: BLE001 - no memory, or a text that is not valid Unicode
            error = raised
        else:
            if (size := len(encoded) + sum(map(len, large))) > LARGEST:
                error = OversizedError(f"the outcome has {size:,} bytes; {LARGEST:,} can be passed on")
        if error is not None:
            failure = self._failure(error)
            encoded, large = _encode(Outcome(item.seq, outcome.duration, self.generation, failure=failure)), []
        return encoded, large

    def refuse(self, item: Item, error: Exception) -> Outcome:
        """Return the outcome of a message that cannot even begin."""
        return Outcome(item.seq, 0.0, self.generation, failure=self._failure(error))

    def _decode(self, item: Item, properties: Properties) -> Any:
        if len(item.body) > self._config.max_body:
            limit = self._config.max_body
            raise OversizedError(f"the body has {len(item.body):,} bytes; max_body allows {limit:,}")
        return decode(
            item.body,
            properties.content_type,
            properties.content_encoding,
            self._config.codec,
            compression=properties.headers.get("compression"),
            limit=self._config.max_body,
            forced=self._form,
            keys=self._keys,
            signature=properties.headers.get(headers.SIGNATURE) if self._keys else None,
        )

    def _open(self, item: Item, properties: Properties) -> tuple[Any, Message | None]:
        """Return the body as jobs get it, and the message if any job takes it."""
        body = self._bodies.pop(item.seq) if item.seq in self._bodies else self._decode(item, properties)
        message = None
        if self._chain.takes_message:
            message = Message(
                item.body,
                item.properties,
                redelivered=item.redelivered,
                exchange=item.exchange,
                routing_key=item.routing_key,
                attempt=self._attempt(properties),
            )
        return body, message

    def _deadline(self, began: float) -> float | None:
        """Return when the limit that a handler should heed passes, on the clock of `time.monotonic()`."""
        limit = self.soft_limit or self.hard_limit
        return began + limit if limit else None

    def _run(self, item: Item, properties: Properties, began: float) -> Any:
        body, message = self._open(item, properties)
        deadline = self._deadline(began) if self._chain.takes_deadline else None
        if self._shared is not None:
            self._shared.begin(item, properties)
        self._alarm.set(self.soft_limit)
        try:
            value = self._chain.run(body, message, deadline)
            return self._messages.encode_all(value, self._alarm) if type(value) is Several else value
        finally:
            self._alarm.clear()
            if self._shared is not None:
                self._shared.end()
            if os.getpid() != self._pid:
                os._exit(0)  # a copy that the handler forked has returned, which does not own the lane

    def _outcome(self, item: Item, properties: Properties, value: Any, duration: float) -> Outcome:
        reply_to, made = _caller(properties.reply_to) if properties.reply_to else "", self._messages
        attempt = self._attempt(properties)
        if type(value) is EncodedAll:
            results = made.several(item, properties, attempt, duration, value) if value else ()
        else:
            results = () if value is None else (made.one(item, properties, attempt, duration, made.encode(value)),)
        if not results and reply_to:
            results = (made.nothing(item, properties, attempt, duration),)
        return Outcome(item.seq, duration, self.generation, results, reply_to)

    def _attempt(self, properties: Properties) -> int:
        return headers.attempt(properties, self._config.input.queue)

    def _failure(self, error: BaseException) -> Failure:
        self.failed = True
        failure = self._failure_of(error, describe(error))
        if not failure.traceback:
            return failure  # the body or the result is at fault
        return replace(failure, place=place_of(error.__traceback__, interrupted=failure.reason == "timeout"))

    def _failure_of(self, error: BaseException, text: Described) -> Failure:  # noqa: PLR0911 - one line per kind
        match error:
            case Reject():
                return Failure("reject", text.type, text.message, text.traceback, final=True)
            case Retry():
                return Failure("error", text.type, text.message, text.traceback, after=_seconds(error))
            case SoftTimeLimit() | HardTimeLimit():
                return Failure("timeout", text.type, text.message, text.traceback)
            case SystemExit() | KeyboardInterrupt():
                return Failure("crash", text.type, text.message, text.traceback)
            case MemoryError():
                self.out_of_memory = True
                return Failure("memory", text.type, text.message or "out of memory", text.traceback)
            case UndecodableError() | MalformedProperties():
                return Failure("undecodable", text.type, text.message, final=True)
            case UnencodableError() | SharedValueError():
                return Failure("unencodable", text.type, text.message, final=True)
            case OversizedError():
                return Failure("oversized", "TooLarge", text.message, final=True)
            case _:
                return Failure("error", text.type, text.message, text.traceback)


def _caller(name: str) -> str:
    """Return the reply queue of a message; "" if its name is not UTF-8."""
    return "" if any("\ud800" <= character <= "\udfff" for character in name) else name


def _seconds(retry: Retry) -> float | None:
    """Return the delay that a Retry asks for; None if it is not a number, which could not be sent up."""
    try:
        seconds = float(retry.after)  # type: ignore[arg-type]  # the handler may have put anything there
    except Exception:  # noqa: BLE001 - as above, and its __float__ may raise anything
        return None
    return None if math.isnan(seconds) else seconds
