"""A private RabbitMQ node that is killed now and then, and a client of it that connects again."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pika

from tests.support import foreign
from tests.support.rabbitmq import RabbitNode
from tests.support.service import ServiceProcess

AGAIN = 0.2  # seconds until it is tried again


class PrivateNode:
    """See the module head; runs from the beginning."""

    lost: tuple[type[Exception], ...] = (pika.exceptions.AMQPError,)  # what a kill of the node can raise here

    def __init__(self, folder: Path, queue_type: str) -> None:
        self.queue_type = queue_type
        self._node = RabbitNode(folder)
        self._node.start()
        self.config = f'[broker]\nurl = "{self._node.url()}"'

    def begin(self, _service: ServiceProcess) -> None:
        """Connect."""
        self._client = foreign.Client(self._node.url())

    def kill(self) -> None:
        """Kill the node, and start it again."""
        self._node.kill()
        self._node.start()

    def close(self) -> None:
        """End both."""
        with contextlib.suppress(Exception):
            self._client.__exit__()
        self._node.stop()

    @contextlib.contextmanager
    def _again(self) -> Iterator[None]:
        """Connect again after an error; what was done may have been done twice, and what was taken comes again."""
        try:
            yield
        except self.lost:
            time.sleep(AGAIN)
            with contextlib.suppress(pika.exceptions.AMQPError, OSError):
                self._client = foreign.Client(self._node.url())
