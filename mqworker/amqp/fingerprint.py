"""Identifies a message by its content, so that a redelivery is recognised.

Pure; used by the ledger and by Consumers (which record it before they start a message). Everything counts except two
things that a quorum queue changes on a redelivery: it adds a counter (`x-delivery-count`), and it sorts the headers.
Whoever puts a message back removes that counter too. An empty table of headers counts as no table: the broker may have
added the table together with the counter.
"""

from hashlib import sha256

from mqworker.amqp.properties import HEADERS_FLAG, Headers, MalformedProperties, Properties, in_order

DELIVERY_COUNT = "x-delivery-count"
_MARK = DELIVERY_COUNT.encode()
_SMALL = 4096  # bytes; copying fewer is faster than passing them separately
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
    """Return properties without their table of headers if it is empty, otherwise with its headers sorted."""
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
    """Return the properties as the publisher sent them, except for the order of headers; malformed ones unchanged."""
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
