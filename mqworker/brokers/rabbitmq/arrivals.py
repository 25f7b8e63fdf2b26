"""Through which exchanges messages came, and which of these the queue has lost.

Owned by the Link, whose consuming side says by which exchange each message came; pure. When the queue was deleted and
made again, it lacks the bindings that others had made, and AMQP does not say which those were. So it is remembered
through which exchanges messages came: until one comes that way again, the binding is missing. (Not so of the configured
exchange: what others bound to it by other keys is not noticed.)
"""


class Arrivals:
    """See the module head."""

    def __init__(self) -> None:
        self.unbound: set[str] = set()  # through which messages came before the queue was deleted and made again
        self._exchanges: set[str] = set()  # through which messages have come since the queue was made

    def came(self, exchange: str) -> bool:
        """Note that a message came through this exchange; returns whether that is news about what is missing."""
        if not exchange or exchange in self._exchanges:
            return False
        self._exchanges.add(exchange)
        known = exchange in self.unbound
        self.unbound.discard(exchange)
        return known

    def made_again(self, bound: str) -> None:
        """Note that the queue was deleted and is new: only the exchange `bound` is bound to it again."""
        self.unbound |= self._exchanges - {bound}
        self._exchanges.clear()
