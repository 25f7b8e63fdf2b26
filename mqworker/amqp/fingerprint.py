"""The identity of a message by its content, for recognising a redelivery (decision 17).

Pure; used by the ledger and by Consumers (which record it before they start a message). Everything counts except the
number that a quorum queue adds to each redelivery (`x-delivery-count`), and the order of the headers, because it sorts
them then; whoever puts a message back removes that number too. A table without headers counts like none: the broker may
have added the table together with it.
"""

from hashlib import sha256

from mqworker.amqp.properties import HEADERS_FLAG, Headers, MalformedProperties, Properties, in_order

DELIVERY_COUNT = "x-delivery-count"
_MARK = DELIVERY_COUNT.encode()
_SMALL = 4096  # bytes that are sooner copied than passed separately
_BEFORE_TABLE = (0x80, 0x40)  # content_type, content_encoding


def fingerprint(properties: bytes, body: bytes) -> bytes:
    """Return the SHA-256 of body and properties, 32 bytes."""
    if len(properties) > 1 and properties[0] & HEADERS_FLAG:
        properties = without_delivery_count(properties)
        if properties[0] & HEADERS_FLAG:
            properties = _plain(properties)
    head = len(properties).to_bytes(4) + properties
    if len(body) < _SMALL:
        return sha256(head + body).digest()  # half the time of three updates
    digest = sha256(head)
    digest.update(body)
    return digest.digest()


def _plain(properties: bytes) -> bytes:
    """Return properties that have a table without it if it is empty, and with its headers in order."""
    flags, at = properties[0], 2
    for flag in _BEFORE_TABLE:  # short texts
        if flags & flag:
            at += 1 + properties[at] if at < len(properties) else 0
    size = int.from_bytes(properties[at : at + 4])
    if not size:
        return bytes((flags & ~HEADERS_FLAG, properties[1])) + properties[2:at] + properties[at + 4 :]
    end = at + 4 + size
    try:
        table = in_order(properties[at + 4 : end])
    except MalformedProperties:
        return properties
    return properties[:at] + len(table).to_bytes(4) + table + properties[end:]


def without_delivery_count(properties: bytes) -> bytes:
    """Return the properties as the message's publisher sent them but for the order of headers; malformed ones as is."""
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
