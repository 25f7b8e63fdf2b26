"""Publish channels that have been replaced, each kept until its answers have come, so that nothing is published twice.

Runs on the loop of the Link; part of `publishing`. When one ends while answers are outstanding, its connection is
aborted: then everything without an answer is published again.
"""

from functools import partial

from mqworker.brokers.rabbitmq.amqp_connection import Lost
from mqworker.brokers.rabbitmq.sender import Sender


class ReplacedSenders:
    """See the module head."""

    def __init__(self) -> None:
        self._senders: list[Sender] = []

    def keep(self, sender: Sender) -> None:
        """Keep this one; nothing more is sent on it."""
        sender.channel.on_lost = partial(self._lose, sender)
        self._senders.append(sender)
        self.close_answered()

    @property
    def oldest(self) -> list[float]:
        """The times since which the oldest publications wait for their answers."""
        return [since for sender in self._senders for since in sender.oldest]

    def close_answered(self) -> None:
        """Close those without outstanding answers."""
        for sender in [sender for sender in self._senders if not sender.unanswered]:
            self._senders.remove(sender)
            sender.end()

    def give_up(self) -> int:
        """Close all of them; returns how many publications have no answer."""
        senders, self._senders = self._senders, []
        unanswered = sum(sender.unanswered for sender in senders)
        for sender in senders:
            sender.end()
        return unanswered

    def _lose(self, sender: Sender, lost: Lost) -> None:
        connection = sender.channel.connection
        if sender.unanswered and connection.usable:
            connection.abort(lost)
