"""What a handler may return besides a plain value: one `Result`, or several results by `yield`.

Lives in a Consumer (or a user's test) for one message. A `Result` says how it is to be published; if anything is wrong
with it, the error is raised where the handler makes it.
"""

import operator
from collections.abc import Generator, Iterator, Mapping
from types import GeneratorType
from typing import Any, final

MOST_BYTES = 255  # of an AMQP short string
_WISHES = ("routing_key", "content_type", "priority", "expiration", "type", "correlation_id")


@final
class Result:
    """A handler's result, and how to publish it; anything left out is as for a plain value.

    `routing_key` replaces the output's (without an exchange it is the name of the queue). `headers` are added to those
    of the input; None removes a header. With a `content_type`, bytes and text are sent as they are; for anything else,
    it must be a JSON or MessagePack type. `priority` is 0 to 255, `expiration` in seconds. Raises TypeError or
    ValueError.
    """

    __slots__ = ("body", "content_type", "correlation_id", "expiration", "headers", "priority", "routing_key", "type")

    def __init__(
        self,
        body: Any,
        *,
        routing_key: str | None = None,
        headers: Mapping[str, Any] | None = None,
        content_type: str | None = None,
        priority: int | None = None,
        expiration: float | None = None,
        type: str | None = None,  # noqa: A002 - AMQP's name
        correlation_id: str | None = None,
    ) -> None:
        if isinstance(body, Result | GeneratorType):
            raise TypeError(f"the body of a Result must be a value, but is a {body.__class__.__name__}")
        self.body = body
        self.routing_key = short_text("routing_key", routing_key)
        self.headers = {} if headers is None else dict(headers)
        self.content_type = short_text("content_type", content_type)
        self.priority = None if priority is None else operator.index(priority)
        self.expiration = expiration
        self.type = short_text("type", type)
        self.correlation_id = short_text("correlation_id", correlation_id)
        for name in self.headers:
            if short_text("the name of a header", name) == "":
                raise ValueError("the name of a header must not be empty")
        if priority is not None and not 0 <= priority <= 255:
            raise ValueError(f"priority must be 0 to 255, but is {priority}")
        if expiration is not None and not 0 <= expiration <= 4_000_000:
            raise ValueError(f"expiration must be 0 to 4,000,000 seconds, but is {expiration}")

    def __repr__(self) -> str:
        wishes = [f", {name}={value!r}" for name in _WISHES if (value := getattr(self, name)) is not None]
        return f"Result({self.body!r}{f', headers={self.headers!r}' if self.headers else ''}{''.join(wishes)})"

    def then(self, value: Any) -> "Result":
        """Return the result of a later job: its value and wishes, and the wishes made here that it does not replace."""
        later = value if isinstance(value, Result) else Result(value)
        merged = Result(later.body, headers=self.headers | later.headers)
        for name in _WISHES:
            wish = getattr(later, name)
            setattr(merged, name, getattr(self, name) if wish is None else wish)
        return merged


class Several:
    """The results of a chain in which a job has yielded: each is computed on demand.

    A caller that stops before the end calls `close`, so that the handler's `finally` blocks run then and not later.
    """

    __slots__ = ("_values", "_wishes")

    def __init__(self, values: Generator[Any, None, None], wishes: Result | None) -> None:
        """`wishes`: of a job before the one that yielded."""
        self._values = values
        self._wishes = wishes

    def __iter__(self) -> Iterator[Any]:
        return self._values if self._wishes is None else map(self._wishes.then, self._values)

    def close(self) -> None:
        """End the generators."""
        self._values.close()


def short_text(name: str, value: Any) -> str | None:
    """Return the value if it fits into an AMQP short string; raises TypeError or ValueError."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, but is {type(value).__qualname__}")
    if len(value.encode()) > MOST_BYTES:
        raise ValueError(f"{name} has more than {MOST_BYTES} bytes: {value[:50]!r}...")
    return value
