"""The identity of a message by its content, for recognising a redelivery (decision 17).

Pure; used by the ledger and by Consumers (which record it before they start a message). Everything counts except the
number that a quorum queue adds to each redelivery (`x-delivery-count`).
"""

import hashlib

from mqworker.amqp.properties import Headers, MalformedProperties, Properties

DELIVERY_COUNT = "x-delivery-count"
_MARK = DELIVERY_COUNT.encode()


def fingerprint(properties: bytes, body: bytes) -> bytes:
    """Return the SHA-256 of body and properties, 32 bytes."""
    if _MARK in properties:
        try:
            decoded = Properties.decode(properties)
        except MalformedProperties:
            pass
        else:
            decoded.headers.pop(DELIVERY_COUNT, None)
            if not decoded.headers:
                decoded.headers = Headers()  # the broker added the table itself
            properties = decoded.encode()
    digest = hashlib.sha256(len(properties).to_bytes(4, "big"))
    digest.update(properties)
    digest.update(body)
    return digest.digest()
