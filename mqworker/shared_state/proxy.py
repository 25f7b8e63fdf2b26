"""A shared object as a handler sees it, and the arguments of its calls as bytes.

Pure; used in Consumers and in users' tests. Raises SharedValueError for an argument that would not arrive as it is.
"""

from collections.abc import Callable
from typing import Any, Protocol

from mqworker.errors import SharedValueError
from mqworker.shared_state import values


class ProxyCalls(Protocol):
    """What a proxy needs of a client."""

    name: str

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the object and return its result."""


class SharedProxy:
    """A shared object as a handler sees it: `proxy.method(...)` calls the method in the object's process."""

    __slots__ = ("_client",)

    def __init__(self, client: ProxyCalls) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(f"{name} of the shared object {self._client.name!r} cannot be used from here")

        def method(*args: Any, **kwargs: Any) -> Any:
            return self._client.call(name, *args, **kwargs)

        return method

    def __repr__(self) -> str:
        return f"<the shared object {self._client.name!r}>"


def encode_arguments(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return the arguments as they are sent, and in the form from which the call's key is made."""
    value = [[*args], kwargs]
    try:
        body = values.encode(value, "")
    except SharedValueError as error:
        for name, argument in [
            *((f"argument {at} of {method}", each) for at, each in enumerate(args, 1)),
            *kwargs.items(),
        ]:
            values.encode(argument, name)  # raises an error that names it
        raise SharedValueError(f"the arguments of {method} cannot be passed:{error}") from None
    return body, values.canonical(value, body) if kwargs or not values.are_flat(args) else body
