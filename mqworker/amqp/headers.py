"""The names of our headers (the one list that code, documentation and tests use), and which headers a result inherits.

Pure; used where results (Consumer), retries and dead letters (Producer) and replays (broker admin) are built, and where
an operator sends messages (HTTP).
"""

from mqworker.amqp.fingerprint import DELIVERY_COUNT
from mqworker.amqp.properties import Properties

REDELIVERIES = DELIVERY_COUNT  # set by RabbitMQ on quorum queues
PREFIX = "x-mqworker-"
STAGE = PREFIX + "stage"
GENERATION = PREFIX + "generation"
DURATION = PREFIX + "duration-ms"
ATTEMPT = PREFIX + "attempt"  # the number of the attempt that this message is for, from 1
QUEUE = PREFIX + "queue"  # the input of the stage that counts attempts and crashes here; another stage starts from zero
CRASHES = PREFIX + "crashes"
KEY = PREFIX + "key"  # of a retry, under the stage's QUEUE: the routing key with which the message first arrived
DERIVED_ID = (
    PREFIX + "derived-id"
)  # of a result: its input had no id, so its id is derived from the input's content; of a retry: that id
PART = PREFIX + "part"  # which of several results of its message this is, from 1
PARTS = PREFIX + "parts"  # how many there are
SIGNATURE = (
    PREFIX + "signature"
)  # of a pickle: an HMAC of the body (mqworker/signing.py); stays through retries and replays
OUTCOME = PREFIX + "outcome"  # in a reply: result | dropped | dead
REASON = PREFIX + "reason"
ERROR_TYPE = PREFIX + "error-type"
MESSAGE = PREFIX + "message"
TRACEBACK = PREFIX + "traceback"
PLACE = PREFIX + "place"  # of the failure in the user's code: file:line in function
FAILED_AT = PREFIX + "failed-at"
FIRST_FAILED_AT = PREFIX + "first-failed-at"
HOST = PREFIX + "host"
EXIT = PREFIX + "exit"
ORIGINAL = PREFIX + "original-"  # prefix of headers that hold the properties that a dead letter must not have itself
REPLAYED = PREFIX + "replayed"  # how often an operator sent this dead letter back

WRAPPED = PREFIX + "wrapped"  # this dead letter's body holds the message, because its headers did not fit (wrapper.py)

ROOM = 120_000  # bytes of our property blocks at most: a header frame must fit into RabbitMQ's frame_max of 131,072
HEADER_FRAME = 20  # bytes of a content header frame besides the property block
_DEATHS = ("x-first-death-", "x-last-death-")  # RabbitMQ's summary of x-death, present after every retry
_OURS = (PREFIX, *_DEATHS)

BROKERS = {  # meant for a broker or its plugin only: a message that is published again must not carry them
    "x-death": "the broker drops a message that would expire into a queue where it has expired before",
    REDELIVERIES: "a new message has not been delivered before",
    "x-received-from": "a federated exchange does not forward a message that says it came from there",
    "x-shovelled": "a shovel's mark is about the message that it moved",
    "x-shovelled-by": "as above",
    "x-shovelled-timestamp": "as above",
    "x-delay": "a delaying exchange would delay it again",
    "x-deduplication-header": "a deduplicating exchange or queue would drop it",
    "x-cache-ttl": "as above",
    "x-stream-offset": "where the message stands in a stream that it was read from",
    "x-stream-filter-value": "as above",
}
CODECS = {  # tells a library what the input's body is; it would be wrong for the body of the result
    "compression": "kombu and Celery would decompress the result",
    "__TypeId__": "Spring would read the result as the class that the input was written from",
    "__ContentTypeId__": "as above, the class of the elements",
    "__KeyTypeId__": "as above, the class of the keys",
    "json__TypeId__": "as above, from Spring Integration",
    "json__ContentTypeId__": "as above",
    "json__KeyTypeId__": "as above",
    "json__resolvableType": "as above",
    "springAutoDecompress": "Spring would decompress the result",
    "springBatchFormat": "Spring would take the result apart as a batch",
    "Content-Type": "MassTransit would look for its envelope in the result",
}
NOT_KEYS = BROKERS.keys() | {"CC", "BCC"}  # these cannot be the header by which a stage is ordered
_NOT_FOR_RESULTS = BROKERS.keys() | CODECS.keys() | {"CC", "BCC"}  # CC, BCC: they would send copies of the result


def attempt(properties: Properties, queue: str) -> int:
    """Return the number of the attempt that this message is for, in the stage with this input queue."""
    return max(1, _count(properties, ATTEMPT, queue))


def crashes(properties: Properties, queue: str) -> int:
    """Return how many Consumers of the stage with this input queue the message has killed."""
    return _count(properties, CRASHES, queue)


def redeliveries(properties: Properties) -> int:
    """Return how often a quorum queue has delivered the message before."""
    value = properties.headers.get(REDELIVERIES)
    return value if type(value) is int else 0


def _count(properties: Properties, name: str, queue: str) -> int:
    """Read a counter that anybody may have set: 0 when it is missing, not ours or not a small natural number."""
    if QUEUE not in properties.headers or properties.headers[QUEUE] != queue:
        return 0
    value = properties.headers.get(name)
    return value if type(value) is int and 0 <= value < 1_000_000 else 0


def reserved(name: str) -> str:
    """Return why no publisher may set this header of a message; "" if it may."""
    if name.startswith(PREFIX) and name != SIGNATURE:
        return "is set by mqworker alone"
    if name in BROKERS or name.startswith(_DEATHS):
        return "is set by brokers alone"
    return "has the broker send copies to other queues" if name in {"CC", "BCC"} else ""


def strip_brokers(properties: Properties) -> None:
    """Remove what a message must not carry when it is published again: as a retry, renewed or replayed."""
    headers = properties.headers
    for name in [name for name in headers if name in BROKERS or name.startswith(_DEATHS)]:
        del headers[name]


def strip_for_result(properties: Properties) -> None:
    """Remove what a result does not inherit from its input (decisions 26, 42); a derived id stays marked as such."""
    headers = properties.headers
    for name in [name for name in headers if name in _NOT_FOR_RESULTS or name.startswith(_OURS)]:
        if name != DERIVED_ID:
            del headers[name]
