"""How messages and calls are identified, so that calls can be remembered.

Pure; used by Consumers, which name the message of each call, and by the Producer, which names the messages that are
settled. A message is identified by its `message_id` and its body, or by its body alone where the stage says so. Nothing
else counts, because a retry, a renewal, the replay of a dead letter and the death of a broker change the other
properties. The key of a call is unique within its message and stage.
"""

from hashlib import blake2b
from typing import Final

from mqworker.amqp import headers
from mqworker.amqp.labels import derived_id
from mqworker.amqp.properties import Properties
from mqworker.config.model import StageConfig

SIZE: Final = 16  # bytes of every key
NO_MESSAGE: Final = b""  # in place of a message's key: the call belongs to no message, and is not remembered


def message_key(message_id: str, body: bytes) -> bytes:
    """Return the key of a message, 16 bytes; a received `message_id` may contain half a surrogate pair."""
    name = message_id.encode(errors="surrogatepass")
    digest = blake2b(len(name).to_bytes(4), digest_size=SIZE)
    digest.update(name)
    digest.update(body)
    return digest.digest()


def identify(config: StageConfig, properties: Properties, block: bytes, body: bytes) -> tuple[bytes, bool]:
    """Return the key of a message of a stage, and whether the key stays the same however the message comes back.

    `block`: its properties as bytes. Without an id, the key is derived from the message as it first came to the stage.
    """
    if config.identity == "body":
        return message_key("", body), True
    name = properties.message_id
    if name:
        return message_key(name, body), headers.DERIVED_ID not in properties.headers
    return message_key(derived_id(properties, block, body, config.input.queue), body), False


def link_key(link: str, part: int) -> bytes:
    """Return the key of a link's call, 16 bytes: `part` counts the values that jobs before it have yielded."""
    return blake2b(b"link %d %s" % (part, link.encode()), digest_size=SIZE).digest()


def proxy_key(method: str, arguments: bytes, before: int) -> bytes:
    """Return the key of a proxy's call, 16 bytes: `before` is the number of equal calls that this run has made already.

    `arguments` are encoded so that the order of a dict does not matter: it may differ between two runs.
    """
    digest = blake2b(b"proxy %d %d %s" % (before, len(method.encode()), method.encode()), digest_size=SIZE)
    digest.update(arguments)
    return digest.digest()
