"""Binding keys of topic exchanges: words separated by dots, of which `*` stands for one and `#` for any number.

Pure; used by the embedded broker, where each exchange is a topic exchange, and by the rules of the configuration. (AMQP
0-9-1 specification, 3.1.3.3.)
"""

import re
from functools import lru_cache


@lru_cache(maxsize=1024)
def _pattern(binding_key: str) -> re.Pattern[str]:
    """Return what matches a dot before each word of a routing key."""
    words = []
    for word in binding_key.split(".") if binding_key else ():
        if word == "#":
            words.append(r"(?:\.[^.]*)*")
        else:
            words.append(r"\." + (r"[^.]*" if word == "*" else re.escape(word)))
    return re.compile("".join(words), re.DOTALL)


def matches(binding_key: str, routing_key: str) -> bool:
    """Return whether a topic exchange sends a message with this routing key through a binding with this key.

    As in RabbitMQ, an empty key has no word at all.
    """
    words = f".{routing_key}" if routing_key else ""
    return binding_key == routing_key or _pattern(binding_key).fullmatch(words) is not None
