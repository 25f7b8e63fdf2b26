"""The whole configuration, as one tree of frozen structs.

Imported everywhere. It holds values that were checked by `mqworker.config.load`, which owns files, environment and
error messages; nothing here does I/O except `processors`, for one default. The description and the bounds of each key
are written only here: error messages and docs/configuration.md are generated from them. That is why this module is
longer than most.
"""

from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import Meta

from mqworker.config.processors import usable
from mqworker.config.programs import is_program, spec_of
from mqworker.signing import KEY_LENGTH

MIB, TIB = 1 << 20, 1 << 40
HANDLE_NAMES = ("params", "message", "log", "deadline")  # arguments that a handler may ask for by name
SLOT = "MQWORKER_SLOT"  # a variable that is set for handlers; it sets no key
MESSAGE_ID, STAGE, ATTEMPT = "MQWORKER_MESSAGE_ID", "MQWORKER_STAGE", "MQWORKER_ATTEMPT"  # also set for programs
INPUT, ROUTING_KEY, CORRELATION_ID, HEADER = "input", "routing_key", "correlation_id", "header:"  # of `ordered_by`
ORDER_LOCK = ".order"  # after the name of an input: the exclusive queue that its ordered stage may need as a lock
AUTO: Final = "auto"  # a number of Consumers that follows the load

MOST_SEATS = 1000  # messages that one Consumer may work on at once

Seconds = Annotated[float, Meta(ge=0, le=4_000_000)]  # AMQP's time to live is a 32-bit number of milliseconds
Deadline = Annotated[float, Meta(gt=0, le=3600)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=1, le=TIB)]
BytesOrNone = Annotated[int, Meta(ge=0, le=TIB)]
Text = Annotated[str, Meta(min_length=1)]
ShortText = Annotated[str, Meta(max_length=255)]  # AMQP's short string
ExchangeType = Literal["direct", "topic", "fanout", "headers"]
QueueName = Annotated[str, Meta(min_length=1, max_length=200)]  # leaves room for .dlq and .retry.N
Name = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z", title="at most 64 letters, digits, `.`, `-` or `_`")
]
Token = Annotated[str, Meta(pattern=r"^[\x21-\x7e]*\Z", title="printable ASCII without blanks")]
PeerUrl = Annotated[
    str,
    Meta(
        pattern=r"^https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[1-9]\d{0,4})?(/[A-Za-z0-9._~-]+)*/?\Z",
        title="`http://host:port`, optionally followed by a path",
    ),
]
PickleKey = Annotated[  # no pattern: msgspec 0.22 crashes on a union of a text with a pattern and a list
    str, Meta(min_length=KEY_LENGTH, title=f"a text of at least {KEY_LENGTH} characters")
]
OrderKey = Annotated[
    str,
    Meta(
        pattern=r"^(input|routing_key|correlation_id|header:.+)\Z",
        title="`input`, `routing_key`, `correlation_id` or `header:NAME`",
    ),
]
ModuleName = Annotated[str, Meta(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*\Z", title="the name of a module")]
JobSpec = Annotated[str, Meta(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*\Z", title="`module:name`")]


def about(text: str, default: str = "") -> Meta:
    """Describe a key, and its default if that is known only once the configuration is loaded."""
    return Meta(description=text, extra={"default": default} if default else None)


class _Base(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    text_is: ClassVar[str] = ""  # the key that is set by a text in place of this table


class ServiceConfig(_Base, frozen=True):
    """`[service]`: the program as a whole."""

    name: Annotated[Name, about("Name of this service in logs and metrics.")] = "mqworker"
    state_dir: Annotated[
        Text, about("Folder for everything kept between runs; relative to the configuration file.")
    ] = ".mqworker"
    drain_deadline: Annotated[Seconds, about("How long work in hand may take to finish on stopping, in seconds.")] = (
        30.0
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], about("The least severe events that are logged.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "text"], about("`auto`: text on a terminal, JSON Lines elsewhere.")
    ] = "auto"
    processes: Annotated[
        int,
        Meta(ge=1, le=1024),
        about(
            'How many Consumers the stages with `consumers = "auto"` share.',
            default="number of usable CPUs, also by a container's quota",
        ),
    ] = msgspec.field(default_factory=usable)


class ControlConfig(_Base, frozen=True):
    """`[control]`: where the HTTP API listens and who may use it."""

    host: Annotated[Text, about("Address to listen on; any but loopback needs a `token`.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535), about("0: any free port; the log shows which.")] = 5002
    socket: Annotated[
        str, about("Unix socket; relative to the configuration file.", default="`control.sock` in `state_dir`")
    ] = ""
    token: Annotated[Token, about("Secret that callers must send as `Authorization: Bearer`.", default="none")] = ""
    read_token: Annotated[
        Token, about("Secret of read-only callers, such as a scraper; needs a `token`.", default="none")
    ] = ""
    hosts: Annotated[
        tuple[Text, ...], about("Further accepted `Host` names; one with a port is accepted with that port only.")
    ] = ()
    peers: Annotated[
        tuple[PeerUrl, ...],
        about("Other services that the page shows too, at most 32; they are sent our `read_token`, never the `token`."),
    ] = ()
    jobs: Annotated[
        tuple[ModuleName, ...] | None,
        about("Modules in the folder whose jobs may be named over HTTP.", default="those that the stages name"),
    ] = None

    def __repr__(self) -> str:
        """Leave the tokens out: representations end up in logs."""
        return f"ControlConfig(host={self.host!r}, port={self.port}, ...)"


class TlsConfig(_Base, frozen=True):
    """`[broker.tls]`: files in PEM format, relative to the configuration file."""

    ca: Annotated[
        str, about("Certificates of the authorities that may sign the broker's.", default="those of the system")
    ] = ""
    cert: Annotated[str, about("Our certificate, if the broker requires one.", default="none")] = ""
    key: Annotated[str, about("The key of `cert`.", default="inside `cert`")] = ""


class BrokerConfig(_Base, frozen=True):
    """`[broker]`: where messages come from and go to."""

    url: Annotated[
        str | Annotated[tuple[str, ...], Meta(min_length=1)],
        about(
            "Secret if it contains a password. `amqp://`, `amqps://` (or a list, tried in order), `sqlite:///relative` "
            "or `sqlite:////absolute` for the embedded broker.",
            default="embedded: `broker.db` in `state_dir`",
        ),
    ] = ""
    heartbeat: Annotated[int, Meta(ge=1, le=600), about("AMQP heartbeat in seconds.")] = 10
    confirm_deadline: Annotated[Deadline, about("Seconds after which an unconfirmed publish counts as lost.")] = 8.0
    ack_timeout: Annotated[
        Seconds, about("The broker's `consumer_timeout` in seconds, which AMQP does not reveal; 0: none.")
    ] = 1800.0
    max_message_size: Annotated[Bytes, about("The broker's limit in bytes, which AMQP does not reveal.")] = 128 * MIB
    tls: TlsConfig = TlsConfig()

    @property
    def urls(self) -> tuple[str, ...]:
        """Return all URLs, in the order in which they are tried."""
        return (self.url,) if isinstance(self.url, str) else self.url

    def __repr__(self) -> str:
        """Leave the URL out, because of its password: representations end up in logs."""
        return "BrokerConfig(...)"


class InputConfig(_Base, frozen=True):
    """`input` of a stage: a queue, and how it is bound to an exchange."""

    text_is: ClassVar[str] = "queue"

    queue: Annotated[QueueName, about("Queue to consume from.")]
    exchange: Annotated[ShortText, about("Exchange to which the queue is bound.", default="none")] = ""
    type: Annotated[
        Literal["direct", "topic", "fanout"] | None,  # headers would want arguments instead of keys
        about("Makes `exchange` with this type if it does not exist.", default="it must exist"),
    ] = None
    bindings: Annotated[
        tuple[ShortText, ...], about('Binding keys, such as `["camera.*.frame"]`; earlier bindings stay.')
    ] = ()


class OutputConfig(_Base, frozen=True):
    """`output` of a stage: a queue, an exchange with a routing key, or both, the queue bound to the exchange."""

    text_is: ClassVar[str] = "queue"

    queue: Annotated[
        str, Meta(max_length=200), about("Queue for the results.", default="none: their readers bind queues")
    ] = ""
    exchange: Annotated[ShortText, about("Exchange to publish to.", default="the default exchange")] = ""
    type: Annotated[
        ExchangeType | None,
        about(
            "Makes `exchange` with this type if it does not exist.", default="`direct` with a queue; else it must exist"
        ),
    ] = None
    routing_key: Annotated[ShortText, about("The results' key; also binds `queue` to `exchange`.", default="none")] = ""
    max_backlog: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000_000)] | None,
        about(
            "Messages in `queue` at which dispatch stops; it resumes below 80 % of that.",
            default="no limit",
        ),
    ] = None


class RetryConfig(_Base, frozen=True):
    """`retry` of a stage: exponential backoff between attempts."""

    max_attempts: Annotated[Count, about("Attempts in total, including the first; after that the message is dead.")] = 5
    base: Annotated[Seconds, about("Delay before the second attempt, in seconds; it doubles each time.")] = 1.0
    max: Annotated[Seconds, about("The longest delay, in seconds.")] = 3600.0
    final: Annotated[
        tuple[Text, ...], about('Exception types that are not retried, such as `"ValueError"` or `"package.Type"`.')
    ] = ()


class CrashConfig(_Base, frozen=True):
    """`crash` of a stage: how many Consumer deaths one message may cause."""

    max: Annotated[Count, about("Consumer deaths that one message may cause; at the last one the message is dead.")] = 3


class TimeLimitConfig(_Base, frozen=True):
    """`time_limit` of a stage, in seconds for one message; 0: none."""

    soft: Annotated[
        Seconds, about("Seconds after which the handler receives an exception, or is cancelled; 0: none.")
    ] = 0.0
    hard: Annotated[Seconds, about("Seconds after which its Consumer is killed; 0: none.")] = 0.0


class ProgramConfig(_Base, frozen=True):
    """`{ exec = [...] }` among the jobs of a stage: a program, with the body on stdin and the result on stdout."""

    exec: Annotated[tuple[Text, ...], Meta(min_length=1), about("The program and its arguments, run without a shell.")]
    name: Annotated[Name | None, about("Its name in the chain.", default="the name of its file")] = None

    @property
    def spec(self) -> str:
        """Return the program as text, the form in which jobs are named everywhere."""
        return spec_of(self.exec)


def most_consumers(concurrency: int) -> int:
    """Return how many Consumers a stage may have: its register holds twice as many while they are replaced."""
    return min(1024, max(16, 8192 // concurrency))


class StageConfig(_Base, frozen=True):
    """`[stages.NAME]`: one input queue, one Producer, N Consumers, one output."""

    input: Annotated[InputConfig, about("Where messages come from; a text is the name of the queue.")]
    jobs: Annotated[
        tuple[JobSpec | ProgramConfig, ...],
        Meta(min_length=1),
        about(
            "The chain, run in this order: a function or class as `module:name`, a program as"
            ' `{ exec = ["./solver", "--fast"], name = "solver" }`.'
        ),
    ]
    output: Annotated[
        OutputConfig | None,
        about("Where results go; a text is the name of the queue. Without it nothing is published.", default="none"),
    ] = None
    consumers: Annotated[
        Annotated[int, Meta(ge=0, le=1024)] | Literal["auto"],
        about(
            "Number of worker processes. `auto`: a share of `service.processes`, which follows the load.",
            default="number of its usable CPUs, also by a container's quota",
        ),
    ] = msgspec.field(default_factory=usable)
    concurrency: Annotated[
        int,
        Meta(ge=1, le=MOST_SEATS),
        about(
            "Messages that one Consumer works on at once: a plain function in threads, an `async def` in tasks of one"
            " loop. For work that waits; for work that computes, use more `consumers`."
        ),
    ] = 1
    prefetch: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None,
        about(
            "Limit on unsettled messages.",
            default="derived from the service time; on a quorum queue 64 per Consumer, at most 1,000",
        ),
    ] = None
    queue_size: Annotated[int, Meta(ge=1, le=4096), about("Capacity of a lane, in messages.")] = 128
    max_held_bytes: Annotated[Bytes, about("Limit on the bodies inside the process tree, in bytes.")] = 256 * MIB
    time_limit: TimeLimitConfig = TimeLimitConfig()
    retry: RetryConfig = RetryConfig()
    crash: CrashConfig = CrashConfig()
    max_body: Annotated[Bytes, about("Size in bytes of a body above which its message is dead at once.")] = 16 * MIB
    max_results_bytes: Annotated[
        int,
        Meta(ge=1, le=256 * MIB),
        about("Limit on all results of a message that yields, with their headers, in bytes; above it, it is dead."),
    ] = 64 * MIB
    max_messages: Annotated[
        int, Meta(ge=0, le=1_000_000_000), about("Messages after which a Consumer is replaced; 0: never.")
    ] = 0
    max_rss: Annotated[
        BytesOrNone, about("Resident bytes above which a Consumer is replaced after its message in hand; 0: never.")
    ] = 0
    memory_limit: Annotated[BytesOrNone, about("`RLIMIT_AS` of a Consumer, in bytes; 0: none.")] = 0
    cpus: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=8191)], ...],
        about("CPUs that its Consumers are bound to, such as `[2, 3]`.", default="those of the service"),
    ] = ()
    nice: Annotated[
        int,
        Meta(ge=-20, le=19),
        about("Added to the niceness of its Consumers: above 0 they give way to others; below 0 needs a privilege."),
    ] = 0
    native_threads: Annotated[
        Annotated[int, Meta(ge=0, le=1024)] | None,
        about(
            "Threads that native libraries (BLAS, OpenMP, ...) may use in one Consumer, set by their usual variables;"
            " 0: none are set.",
            default="its CPUs / `consumers`, or / `service.processes` where that is `auto`",
        ),
    ] = None
    update: Annotated[
        Literal["switch", "rolling", "old-first"],
        about(
            "How Consumers with other jobs or code replace the present ones: all at the same moment; one by one; or one"
            " by one, each old one leaving before its successor starts, for a port or a device that only one can hold."
        ),
    ] = "switch"
    setup_deadline: Annotated[
        float,
        Meta(gt=0, le=86_400),
        about("Seconds that a Consumer may take to import the code and run `setup`; also for the check of a change."),
    ] = 600.0
    codec: Annotated[
        Literal["json", "msgpack", "text", "bytes", "pickle"],
        about("For bodies without a content type, and for results. `pickle` needs a `pickle_key`."),
    ] = "json"
    decode: Annotated[
        Literal["json", "msgpack", "text", "bytes"] | None,
        about("How every body is decoded, whatever its content type says.", default="by its content type"),
    ] = None
    pickle_key: Annotated[
        PickleKey | tuple[PickleKey, ...] | None,
        about(
            "Secret. Pickles signed with it are loaded, others are dead (a list: any of the keys is accepted, results"
            " are signed with the first). Whoever has a key can run code in the Consumers.",
            default="none: pickles are bytes",
        ),
    ] = None
    nan: Annotated[
        Literal["null", "error"], about("What NaN and infinities in a JSON result become: null, or an error.")
    ] = "null"
    stamp: Annotated[
        Literal["full", "none"],
        about(
            "Headers that say where a result comes from: `full` (stage, generation, attempt, duration), or none, which"
            " costs the broker less."
        ),
    ] = "full"
    ordered_by: Annotated[
        OrderKey | None,
        about(
            "Keeps an order: `input` (results leave in the order of their messages), or by key, one message of a key at"
            " a time: `routing_key`, `correlation_id` or `header:NAME`. A message without the key is not ordered.",
            default="none",
        ),
    ] = None
    on_failure: Annotated[
        Literal["hold", "pass"] | None,
        about(
            "In a stage with an order, whether a message that fails holds up those behind it until it succeeds or is"
            " dead, or lets them pass.",
            default="`hold`",
        ),
    ] = None
    queue_type: Annotated[Literal["classic", "quorum"], about("Type of the queues that are created here.")] = "classic"
    identity: Annotated[
        Literal["message_id", "body"],
        about(
            "When two messages are one for shared objects: if both `message_id` and body are equal, or if the bodies"
            " alone are, for publishers that set no `message_id` and whose equal bodies are one event."
        ),
    ] = "message_id"
    params: Annotated[dict[str, Any], about("Passed to the jobs, which may validate them. Not secret.")] = {}

    @property
    def specs(self) -> tuple[str, ...]:
        """Return the jobs, each as text."""
        return tuple(job if isinstance(job, str) else job.spec for job in self.jobs)

    @property
    def pickle_keys(self) -> tuple[str, ...]:
        """Return the keys that may sign pickles."""
        return (self.pickle_key,) if isinstance(self.pickle_key, str) else self.pickle_key or ()

    def __repr__(self) -> str:
        """Leave the key of pickles out: representations end up in logs."""
        return f"StageConfig(input={self.input!r}, jobs={self.jobs!r}, ...)"

    @property
    def holds(self) -> bool:
        """Return whether a message that fails holds up those behind it."""
        return self.ordered_by is not None and self.on_failure != "pass"

    @property
    def dead(self) -> str:
        """Return the name of the dead-letter queue."""
        return f"{self.input.queue}.dlq"

    def position_queue(self, source: str) -> str:
        """Return the name of the queue that holds the position of a source that publishes to this stage."""
        return f"{self.input.queue}.source.{source}"

    def source_lock(self, source: str) -> str:
        """Return the name of the queue that only one service can have: it runs the source, others stand by."""
        return f"{self.input.queue}.lock.{source}"


class SharedConfig(_Base, frozen=True):
    """`[shared.NAME]`: an object that all Consumers share; handlers receive it in an argument of this name."""

    job: Annotated[JobSpec, about("The class that has one instance, as `module:Class`.")]
    deadline: Annotated[
        Deadline, about("Seconds that one call may take; after that its process is killed, and the message charged.")
    ] = 5.0


class SourceConfig(_Base, frozen=True):
    """`[sources.NAME]`: a generator or a scheduled function of yours, whose messages go into a stage."""

    job: Annotated[JobSpec, about("A function that yields, or one that is called at each tick, as `module:name`.")]
    into: Annotated[Name, about("The stage whose input queue its messages go to.")]
    every: Annotated[
        Text | None,
        about('A tick at each multiple of this since 1970 UTC: `"10 s"`, `"5 min"` or `"1.5 h"`.', default="none"),
    ] = None
    cron: Annotated[Text | None, about("A tick at these times; five fields.", default="none")] = None
    timezone: Annotated[str, about('Zone of `cron`, such as `"Europe/Berlin"`.', default="that of the machine")] = ""
    catch_up: Annotated[
        Literal["last"] | None,
        about("`last`: the newest of the missed ticks is made up.", default="none is made up"),
    ] = None
    max_backlog: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000_000)],
        about(
            "Messages in the stage's input queue at which it waits, like all other sources of the stage; it goes on"
            " below 80 % of that."
        ),
    ] = 10_000
    params: Annotated[dict[str, Any], about("Passed to the job, which may validate them. Not secret.")] = {}

    @property
    def scheduled(self) -> bool:
        """Return whether the job is called at ticks."""
        return self.every is not None or self.cron is not None


class Config(_Base, frozen=True):
    """The whole file."""

    stages: Annotated[dict[Name, StageConfig], Meta(min_length=1)]
    service: ServiceConfig = ServiceConfig()
    control: ControlConfig = ControlConfig()
    broker: BrokerConfig = BrokerConfig()
    shared: dict[Name, SharedConfig] = {}
    sources: dict[Name, SourceConfig] = {}

    @property
    def shared_classes(self) -> dict[str, str]:
        """Return the class of each shared object, by name."""
        return {name: each.job for name, each in self.shared.items()}

    @property
    def modules(self) -> tuple[str, ...]:
        """Return the modules whose jobs may be named over HTTP."""
        if self.control.jobs is not None:
            return self.control.jobs
        jobs = (job for stage in self.stages.values() for job in stage.specs if not is_program(job))
        return tuple(dict.fromkeys(job.partition(":")[0] for job in jobs))

    def sources_into(self, stage: str) -> list[str]:
        """Return the sources that publish to a stage."""
        return [name for name, source in self.sources.items() if source.into == stage]
