"""How results reach their queue if their exchange does not behave like AMQP's own types.

Owned by the Link, on its loop. A plugin's exchange may return a message and still deliver it. If its type is known for
that (RabbitMQ's plugin for delayed messages), results are published without `mandatory`. If its behaviour shows it (a
queue is bound to it, and repairs find nothing missing), results are published straight to the queue. Results for which
a handler has chosen the routing key still go to the exchange, but without `mandatory`, because it is not known here
whether a queue is bound for them.
"""

from msgspec.structs import replace

from mqworker.brokers.base import Placement, Publication
from mqworker.brokers.rabbitmq.queues import Found

FUTILE_MAX, FUTILE_WITHIN = 3, 30.0  # repairs that found nothing missing, at most this many seconds apart
STRAIGHT = (
    "exchange {!r} returns results although queue {!r} is bound to it: they are published straight to the queue, and"
    " those with another routing key without `mandatory`, so one of these that has no route is lost"
)


class ResultRoute:
    """See the module head."""

    def __init__(self, output: Placement | None) -> None:
        self._output = output
        self._delaying = False  # the exchange returns what it will deliver later
        self._straight = False
        self._returned = False  # the exchange has returned a result since the last repair
        self._futile = 0  # repairs in a row that found nothing missing, although results had no route

    @property
    def altered(self) -> bool:
        """Whether some publications are sent to another destination, or in another way, than they say."""
        return self._delaying or self._straight

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator must know about the route."""
        output = self._output
        return (STRAIGHT.format(output.exchange, output.queue),) if output is not None and self._straight else ()

    def of(self, publication: Publication) -> Publication:
        """Return the publication as it is to be sent."""
        output = self._output
        if output is None or publication.exchange != output.exchange or publication.delay:
            return publication
        if self._straight and publication.routing_key == output.routing_key:
            return replace(publication, exchange="", routing_key=output.queue)
        return replace(publication, mandatory=False) if self.altered else publication

    def returned(self, publication: Publication) -> None:
        """Note that this publication had no route."""
        output = self._output
        if output is not None and (publication.exchange, publication.routing_key) == (
            output.exchange,
            output.routing_key,
        ):
            self._returned = True

    def found(self, found: Found) -> None:
        """Note what is known of the exchange."""
        self._delaying = found.delaying

    def begin_anew(self) -> None:
        """Forget what was learned about the exchange, because the topology is ensured for a new channel."""
        self._futile, self._straight = 0, False

    def repaired(self, found: Found, since: float) -> None:
        """Draw conclusions from a repair, `since` seconds after the one before."""
        output, returned = self._output, self._returned
        self._returned = False
        futile = returned and found.bound and not found.repaired and since < FUTILE_WITHIN
        self._futile = self._futile + 1 if futile else 0
        if self._futile == FUTILE_MAX and output is not None and output.exchange and output.queue:
            self._straight = True
