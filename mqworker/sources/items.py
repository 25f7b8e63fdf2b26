"""Turns items into messages: a body, encoded by the stage's codec or the item's own content type, and the properties.

Pure. Runs in a source's main thread. Raises ValueError or UnencodableError, with a sentence. That ends this life of the
source, because an item that was skipped would be lost.
"""

import time
from typing import Any

from mqworker import signing
from mqworker.amqp import headers
from mqworker.amqp.properties import Headers, Properties
from mqworker.brokers.base import Publication
from mqworker.config.model import BrokerConfig, StageConfig
from mqworker.jobs.codecs import BINARY, encode, encode_as
from mqworker.jobs.content_types import is_binary
from mqworker.jobs.item import SourceItem

PERSISTENT = 2


def publication(item: SourceItem, message_id: str, stage: StageConfig, broker: BrokerConfig) -> Publication:
    """Return the message for an item."""
    codec = stage.decode or stage.codec
    if item.content_type is None:
        body, content_type = encode(item.body, codec, nan=stage.nan)
    else:
        body, content_type = encode_as(item.body, item.content_type, nan=stage.nan), item.content_type
    if len(body) > (most := min(stage.max_body, broker.max_message_size)):
        raise ValueError(f"the item has {len(body):,} bytes; the stage takes {most:,} (max_body)")
    table = Headers(_checked(item))
    if codec == "pickle" and item.content_type is None:
        table[headers.SIGNATURE] = signing.sign(body, stage.pickle_keys[0])
    block = Properties(
        content_type=content_type,
        content_encoding=BINARY if is_binary(content_type) else None,
        headers=table,
        delivery_mode=PERSISTENT,
        correlation_id=item.correlation_id,
        message_id=message_id,
        timestamp=int(time.time()),
    ).encode()
    if len(block) > headers.ROOM:
        raise ValueError(f"properties and headers have {len(block):,} bytes; {headers.ROOM:,} can be published")
    return Publication("", stage.input.queue, block, body)


def _checked(item: SourceItem) -> dict[str, Any]:
    for name in item.headers:
        if name.startswith(headers.PREFIX):
            raise ValueError(f"the header {name!r} cannot be set: names with {headers.PREFIX!r} are mqworker's")
    return item.headers
