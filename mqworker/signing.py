"""Signed pickles: for programs that send Python objects to a stage which names a `pickle_key`, or read its results.

    from mqworker import signing

    body, properties = signing.pickled(value, key)
    channel.basic_publish("", "frames", body, pika.BasicProperties(**properties))

Pure; also used by Consumers. A signature is an HMAC-SHA256 of the body's bytes as they are sent, in hex, by the UTF-8
of the key. It says that somebody who has the key made these bytes, and nothing about other properties, or about when:
what follows from that is in docs/bodies.md.
"""

import hmac
import pickle
from collections.abc import Sequence
from typing import Any, Final

from mqworker.amqp.headers import SIGNATURE

CONTENT_TYPE: Final = "application/x-python-serialize"
KEY_LENGTH: Final = 32  # characters that a key has at least


def pickled(value: Any, key: str) -> tuple[bytes, dict[str, Any]]:
    """Return the body for a value, and the properties that a message with it must have (`headers` among them).

    Raises ValueError for a key that is too short to be the `pickle_key` of a stage.
    """
    if len(key) < KEY_LENGTH:
        raise ValueError(f"the key has {len(key)} characters; it needs at least {KEY_LENGTH}, as `pickle_key` does")
    body = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    about = {"content_type": CONTENT_TYPE, "content_encoding": "binary", "headers": {SIGNATURE: sign(body, key)}}
    return body, about


def sign(body: bytes, key: str) -> str:
    """Return the header `x-mqworker-signature` of a body.

    Sign only pickles that you have made: whoever may choose what is signed can have it loaded.
    """
    return hmac.digest(key.encode(), body, "sha256").hex()


def unpickled(body: bytes, signature: object, keys: str | Sequence[str]) -> Any:
    """Return the value of a pickle signed by one of the keys, such as a stage's result; raises ValueError if it is not.

    Raises whatever loading raises.
    """
    verify(body, signature, keys)
    return pickle.loads(body)  # noqa: S301 - made by somebody who has the key


def verify(body: bytes, signature: object, keys: str | Sequence[str]) -> None:
    """Raise ValueError, with one sentence, unless a header is the signature of a body by one of the keys."""
    if signature is None:
        raise ValueError(f"the body is a pickle without a signature (header {SIGNATURE}), and was not loaded")
    given = signature.encode(errors="replace") if isinstance(signature, str) else signature
    right = [sign(body, key).encode() for key in ([keys] if isinstance(keys, str) else keys)]
    if not isinstance(given, bytes) or not any(hmac.compare_digest(given.lower(), each) for each in right):
        raise ValueError(
            f"the body is a pickle whose signature (header {SIGNATURE}) is wrong, and was not loaded: it was altered,"
            " or signed by another key"
        )
