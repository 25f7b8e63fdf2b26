"""The labels of a message: what every log event about it carries, so that its life can be followed.

Pure; used in Consumers and the Producer. Only what is logged about a message is labelled: labelling decodes its
properties, and hashes a message that has no id.
"""

from typing import Any

from mqworker.amqp import headers
from mqworker.amqp.fingerprint import fingerprint
from mqworker.amqp.properties import Properties, decode_leniently

DERIVED = 32  # characters of a derived id


def labels(block: bytes, body: bytes, queue: str) -> dict[str, Any]:
    """Return `message_id` and `attempt` (from 1) of a message. `block`: its properties; `queue`: its stage's input.

    Bytes of an id that are not UTF-8 become escapes, so that a label can be sent to any process and written anywhere.
    """
    properties = decode_leniently(block)
    message_id = properties.message_id or derived_id(properties, block, body, queue)
    return {
        "message_id": message_id.encode("utf-8", "backslashreplace").decode(),
        "attempt": headers.attempt(properties, queue),
    }


def derived_id(properties: Properties, block: bytes, body: bytes, queue: str) -> str:
    """Return the id of a message without one, derived from its content as it first came to `queue`; retries keep it."""
    table = properties.headers
    kept = table.get(headers.DERIVED_ID)
    if isinstance(kept, str) and len(kept) == DERIVED and table.get(headers.QUEUE) == queue:
        return kept
    return fingerprint(block, body).hex()[:DERIVED]
