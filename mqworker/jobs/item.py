"""What a source may yield besides a plain body: one `mqworker.Item`.

Lives in a source's process (or a user's test). If anything is wrong with it, the error is raised where the source makes
it.
"""

from collections.abc import Mapping
from types import GeneratorType
from typing import Any, Final, final

import msgspec

from mqworker.jobs.result import Result, short_text

MOST_POSITION: Final = 4_000  # bytes of a position, as JSON
NOWHERE: Final[Any] = msgspec.UNSET  # the position of an item without one; None is a position


@final
class SourceItem:
    """A message of a source, and how to publish it; anything left out is as for a plain body. `mqworker.Item`.

    `position` (any JSON value, at most 4,000 bytes) states that everything up to here has been yielded. With a
    `content_type`, bytes and text are sent as they are; for anything else, it must be a JSON or MessagePack type.
    Raises TypeError or ValueError.
    """

    __slots__ = ("body", "content_type", "correlation_id", "headers", "message_id", "position", "position_json")

    def __init__(
        self,
        body: Any,
        *,
        position: Any = NOWHERE,
        message_id: str | None = None,
        headers: Mapping[str, Any] | None = None,
        content_type: str | None = None,
        correlation_id: str | None = None,
    ) -> None:
        if isinstance(body, SourceItem | Result | GeneratorType):
            raise TypeError(f"the body of an Item must be a value, but is a {body.__class__.__name__}")
        self.body = body
        self.position = position
        self.position_json = None if position is NOWHERE else _json(position)
        self.message_id = short_text("message_id", message_id)
        self.headers = {} if headers is None else dict(headers)
        self.content_type = short_text("content_type", content_type)
        self.correlation_id = short_text("correlation_id", correlation_id)
        for name in self.headers:
            if short_text("the name of a header", name) == "":
                raise ValueError("the name of a header must not be empty")

    def __repr__(self) -> str:
        position = "" if self.position is NOWHERE else f", position={self.position!r}"
        return f"Item({self.body!r}{position})"


def _json(position: Any) -> bytes:
    try:
        encoded = msgspec.json.encode(position)
        if msgspec.json.decode(encoded) != position:
            raise TypeError("it would come back as something else")  # noqa: TRY301 - all errors get one sentence
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        what = f"position must be a value that JSON carries, but is {type(position).__qualname__}"
        raise TypeError(f"{what}: {error}") from None
    if len(encoded) > MOST_POSITION:
        raise ValueError(f"position has {len(encoded):,} bytes as JSON; it may have {MOST_POSITION:,}")
    return encoded
