"""The calls of shared objects that the jobs of one Consumer make, each for the message in hand.

Runs in a Consumer's main thread. Owns a client of each object that is used. A call has its effect once a message,
however often the message runs; so every run is begun with the message's key and ended. Time that a call waits for an
object that is down does not count toward the soft time limit. Raises what the clients raise.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from mqworker.amqp import headers
from mqworker.amqp.labels import derived_id
from mqworker.amqp.properties import Properties
from mqworker.consumer.register import Slot
from mqworker.consumer.work import Alarm
from mqworker.ipc.messages import Item, StageSpec
from mqworker.shared_state.client import SharedClient, SharedProxy
from mqworker.shared_state.identity import NO_MESSAGE, message_key


class SharedCalls:
    """See the module head; implements jobs.chain.SharedCaller."""

    def __init__(self, spec: StageSpec, slot: Slot, alarm: Alarm) -> None:
        self._spec = spec
        self._slot = slot
        self._waits = (0.0, 0.0)  # when the message began, and when it began to wait
        self._params = b"{}"
        self._here = threading.get_ident(), os.getpid()
        self._alarm = alarm
        self._clients: dict[str, SharedClient] = {}
        self._run = (NO_MESSAGE, False)
        self._parts: Counter[str] = Counter()  # how often each link was called in this run

    def link(self, name: str, link: str, value: Any) -> Any:
        """Call `handle` of an object, as a link of the chain; behind a job that yields, once for each value."""
        part = self._parts[link]
        self._parts[link] += 1
        return self._client(name).link(link, value, part)

    def proxy(self, name: str) -> SharedProxy:
        """Return what a handler gets by an argument of the object's name."""
        return self._client(name).proxy()

    def use_params(self, params: Mapping[str, Any]) -> None:
        """Pass other parameters with the calls from now on."""
        self._params = msgspec.json.encode(params)
        for client in self._clients.values():
            client.use_params(self._params)

    def begin(self, item: Item, properties: Properties) -> None:
        """Let the calls from now on belong to this message."""
        queue = self._spec.config.input.queue
        has_id = bool(properties.message_id) and headers.DERIVED_ID not in properties.headers
        name = properties.message_id or derived_id(properties, item.properties, item.body, queue)
        self._run = message_key(name, item.body), has_id
        self._parts.clear()
        for client in self._clients.values():
            client.begin(self._run[0], has_id=has_id)

    def end(self) -> None:
        """Let the calls from now on belong to no message."""
        self._run = (NO_MESSAGE, False)
        for client in self._clients.values():
            client.end()

    def _wait(self, waiting: bool) -> None:
        """Let the time limits stand still while a call waits for an object that is down."""
        if (threading.get_ident(), os.getpid()) != self._here:
            return
        self._alarm.wait(waiting)
        now = time.monotonic()
        if waiting:
            self._waits = self._slot.wait(), now
        else:
            began, since = self._waits
            self._slot.go_on(began + now - since)

    def _client(self, name: str) -> SharedClient:
        client = self._clients.get(name)
        if client is None:
            client = SharedClient(self._spec.state_dir, name, self._spec.stage, waits=self._wait)
            client.use_params(self._params)
            message, has_id = self._run
            if message:
                client.begin(message, has_id=has_id)
            self._clients[name] = client
        return client
