"""The whole configuration, as one tree of frozen structs.

Imported everywhere, imports nothing of mqworker. It holds values that were checked by `mqworker.config_load`, which owns
files, environment and error messages; nothing here does I/O.
"""

import os
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
QueueName = Annotated[str, Meta(min_length=1, max_length=200)]

MIB = 1 << 20


class _Base(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class ServiceConfig(_Base):
    """`[service]`."""

    name: Name = "mqworker"
    state_dir: str = ".mqworker"  # relative to the configuration file
    drain_deadline: Seconds = 30.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"  # auto: text on a terminal, JSON Lines elsewhere


class ControlConfig(_Base):
    """`[control]`: where the HTTP API listens and who may use it."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 5002  # 0: any free port, told in the log
    socket: str = ""  # default: control.sock in state_dir
    token: str = ""
    hosts: tuple[str, ...] = ()  # further Host names that are ours


class TlsConfig(_Base):
    """`[broker.tls]`: files in PEM format, relative to the configuration file."""

    ca: str = ""
    cert: str = ""
    key: str = ""


class BrokerConfig(_Base):
    """`[broker]`."""

    url: str | tuple[str, ...] = "sqlite:///.mqworker/broker.db"
    heartbeat: Annotated[int, Meta(ge=1, le=600)] = 10
    confirm_deadline: Annotated[float, Meta(gt=0)] = 8.0
    ack_timeout: Seconds = 1800.0  # the broker's consumer_timeout, which AMQP does not tell
    max_message_size: Positive = 128 * MIB  # the broker's limit, which AMQP does not tell
    tls: TlsConfig = TlsConfig()

    @property
    def urls(self) -> tuple[str, ...]:
        """All hosts, in the order in which they are tried."""
        return (self.url,) if isinstance(self.url, str) else self.url


class OutputConfig(_Base):
    """`output` of a stage: a queue alone, or bound to a durable direct exchange by a routing key."""

    queue: QueueName
    exchange: str = ""
    routing_key: str = ""


class RetryConfig(_Base):
    """`retry` of a stage: exponential backoff between attempts."""

    max_attempts: Positive = 5  # the first included
    base: Seconds = 1.0
    max: Seconds = 3600.0
    final: tuple[str, ...] = ()  # names of exception types that are not retried, as "ValueError" or "package.Type"


class CrashConfig(_Base):
    """`crash` of a stage: how many deaths of a Consumer one message may cause."""

    max: Positive = 3  # the last one is final


class TimeLimitConfig(_Base):
    """`time_limit` of a stage, in seconds of one message; 0: none."""

    soft: Seconds = 0.0
    hard: Seconds = 0.0


class StageConfig(_Base):
    """`[stages.NAME]`: one input queue, one Producer, N Consumers, one output."""

    input: QueueName
    jobs: Annotated[tuple[str, ...], Meta(min_length=1)]
    output: OutputConfig | None = None
    consumers: Annotated[int, Meta(ge=0, le=1024)] = msgspec.field(default_factory=lambda: len(os.sched_getaffinity(0)))
    prefetch: Annotated[int, Meta(ge=1, le=65535)] | None = None  # default: derived from the service time
    queue_size: Annotated[int, Meta(ge=1, le=4096)] = 256  # the bound of a lane, in messages
    max_held_bytes: Positive = 256 * MIB  # of bodies inside the tree
    time_limit: TimeLimitConfig = TimeLimitConfig()
    retry: RetryConfig = RetryConfig()
    crash: CrashConfig = CrashConfig()
    max_body: Positive = 16 * MIB
    max_messages: Annotated[int, Meta(ge=0)] = 0  # a Consumer is replaced after so many; 0: never
    max_rss: Annotated[int, Meta(ge=0)] = 0  # a Consumer is replaced after the message in hand; bytes, 0: never
    memory_limit: Annotated[int, Meta(ge=0)] = 0  # RLIMIT_AS of a Consumer; bytes, 0: none
    codec: Literal["json", "msgpack", "text", "bytes"] = "json"  # for bodies without a content type, and for results
    queue_type: Literal["classic", "quorum"] = "classic"
    params: dict[str, Any] = {}

    @property
    def dead(self) -> str:
        """The name of the dead-letter queue."""
        return f"{self.input}.dlq"


class Config(_Base):
    """The whole file."""

    stages: Annotated[dict[Name, StageConfig], Meta(min_length=1)]
    service: ServiceConfig = ServiceConfig()
    control: ControlConfig = ControlConfig()
    broker: BrokerConfig = BrokerConfig()
