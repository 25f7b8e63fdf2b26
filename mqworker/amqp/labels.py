"""The labels of a message: what every log event about it carries, so that its life can be followed.

Pure; used in Consumers and the Producer. Only what is logged about a message is labelled: labelling decodes its
properties, and hashes a message that has no id.
"""

from typing import Any

from mqworker.amqp import headers
from mqworker.amqp.fingerprint import derived_id
from mqworker.amqp.properties import decode_leniently


def labels(block: bytes, body: bytes, queue: str) -> dict[str, Any]:
    """Return `message_id`, that of its result (so derived from its content if it has none), and `attempt`, from 1.

    `block` are its properties, `queue` is the input of the stage whose attempts count.
    """
    properties = decode_leniently(block)
    message_id = properties.message_id or derived_id(block, body)
    return {"message_id": message_id, "attempt": headers.attempt(properties, queue)}
