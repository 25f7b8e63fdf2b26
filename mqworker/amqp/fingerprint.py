"""The identity of a message by its content, for recognising a redelivery (decision 17).

Pure; used by the ledger and by Consumers (which record it before they start a message). Everything counts except the
number that a quorum queue adds to each redelivery (`x-delivery-count`); whoever puts a message back removes it too.
"""

import hashlib

from mqworker.amqp.properties import Headers, MalformedProperties, Properties

DELIVERY_COUNT = "x-delivery-count"
_MARK = DELIVERY_COUNT.encode()


def fingerprint(properties: bytes, body: bytes) -> bytes:
    """Return the SHA-256 of body and properties, 32 bytes."""
    properties = without_delivery_count(properties)
    digest = hashlib.sha256(len(properties).to_bytes(4, "big"))
    digest.update(properties)
    digest.update(body)
    return digest.digest()


def without_delivery_count(properties: bytes) -> bytes:
    """Return the properties as the message's publisher sent them; malformed ones stay as they are."""
    if _MARK not in properties:
        return properties
    try:
        decoded = Properties.decode(properties)
    except MalformedProperties:
        return properties
    decoded.headers.pop(DELIVERY_COUNT, None)
    if not decoded.headers:
        decoded.headers = Headers()  # the broker added the table itself
    return decoded.encode()
