"""Through which exchanges messages came, and which of these bindings the queue has lost.

Owned by the Link, whose consuming side reports the exchange of each message; pure. A queue that was deleted and made
again lacks the bindings that others had made, and AMQP does not list them. So this remembers through which exchanges
messages came: until a message comes that way again, the binding counts as missing. (The configured exchange is an
exception: bindings that others made to it with other keys are not noticed.)
"""


class Arrivals:
    """See the module head."""

    def __init__(self) -> None:
        self.unbound: set[str] = set()  # by which messages came only before the queue was made again
        self._exchanges: set[str] = set()  # through which messages have come since the queue was made

    def came(self, exchange: str) -> bool:
        """Note that a message came through this exchange; returns True if its binding counted as missing until now."""
        if not exchange or exchange in self._exchanges:
            return False
        self._exchanges.add(exchange)
        known = exchange in self.unbound
        self.unbound.discard(exchange)
        return known

    def made_again(self, bound: str) -> None:
        """Note that the queue was deleted and made again: only the exchange `bound` is bound to it again."""
        self.unbound |= self._exchanges - {bound}
        self._exchanges.clear()
