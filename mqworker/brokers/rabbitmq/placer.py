"""A confirm channel of the Admin: each publication is stored, or the reason why not is returned.

Runs on the loop of the broker admin process; made for one request. Raises `BrokerRefused`, and `Lost` when its channel
ends.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import pika.spec

from mqworker.amqp.headers import HEADER_FRAME
from mqworker.amqp.properties import decode_leniently
from mqworker.brokers.base import BrokerRefused, Publication
from mqworker.brokers.rabbitmq.amqp_connection import RawProperties
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.fast_frames import encode_publish


class Placer:
    """A channel on which messages are published and confirmed."""

    def __init__(self, channel: Channel, largest: int) -> None:
        self._channel = channel
        self._largest = largest
        self._sent = 0
        self._waiting: set[int] = set()  # numbers of the publications without an answer
        self._refused: dict[int, str] = {}  # number -> why
        self._returned: dict[str | None, str] = {}  # message id -> why the message was returned (it had no route)
        self._answered: asyncio.Queue[str] = asyncio.Queue()  # gets an item whenever all have their answers

    async def start(self) -> None:
        """Ask for confirms."""
        self._channel.raw.add_on_return_callback(self._on_return)
        await self._channel.ask("confirm_delivery", ack_nack_callback=self._on_answer)

    def _on_return(self, _channel: object, method: Any, properties: RawProperties, _body: bytes) -> None:
        self._returned[decode_leniently(properties.block).message_id] = f"returned: {method.reply_text}"

    def _on_answer(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        numbers = {number for number in self._waiting if number <= tag} if frame.method.multiple else {tag}
        self._waiting -= numbers
        if isinstance(frame.method, pika.spec.Basic.Nack):
            self._refused |= dict.fromkeys(numbers, "nacked: queue full or unavailable")
        if not self._waiting:
            self._answered.put_nowait("")

    async def place(self, publication: Publication) -> None:
        """Publish and wait for the confirm; raises BrokerRefused when it is returned, nacked or too large."""
        if reason := (await self.place_all([publication]))[0]:
            raise BrokerRefused(reason)

    async def place_all(self, publications: Sequence[Publication]) -> list[str]:
        """Publish all, then wait for their confirms; returns why each was refused, "" if it is stored.

        Returned messages are recognised by their message ids: publications with the same id, or without any, count as
        returned together; if a returned id belongs to none of them, all count as returned.
        """
        refusals, numbers = [], {}
        self._returned = {}
        for publication in publications:
            refusals.append(self._publish(publication))
            if not refusals[-1]:
                numbers[len(refusals) - 1] = self._sent
        if numbers:
            await self._channel.first(self._answered)
        returned = self._why_returned(publications)
        for at, number in numbers.items():
            if reason := self._refused.pop(number, "") or returned[at]:
                refusals[at] = f"{reason} (queue {publications[at].routing_key!r})"
        return refusals

    def _why_returned(self, publications: Sequence[Publication]) -> list[str]:
        if not self._returned:
            return [""] * len(publications)
        ids = [decode_leniently(publication.properties).message_id for publication in publications]
        unknown = next((self._returned[message_id] for message_id in self._returned.keys() - set(ids)), "")
        return [self._returned.get(message_id, unknown) for message_id in ids]

    def _publish(self, publication: Publication) -> str:
        if len(publication.body) > self._largest:
            return f"{len(publication.body)} bytes are more than the broker takes"
        size, most = len(publication.properties), self._channel.connection.params.frame_max - HEADER_FRAME
        if size > most:  # otherwise the broker would close the connection, with all requests on it
            return f"properties and headers have {size:,} bytes; {most:,} fit into the broker's frame_max"
        if not self._channel.usable:
            return "cannot be published: the channel is closed"
        names = self._channel.number, publication.exchange, publication.routing_key
        properties, body, mandatory = publication.properties, publication.body, publication.mandatory
        frame_max = self._channel.connection.params.frame_max
        try:
            frames = encode_publish(*names, properties, body, mandatory=mandatory, frame_max=frame_max)
        except ValueError as error:
            return f"cannot be published: {error}"
        self._channel.connection.send_frames(frames)
        self._sent += 1
        self._waiting.add(self._sent)
        return ""
