"""The calls of shared objects that the jobs of one Consumer make, each for the message in hand.

Runs in a Consumer, in the thread that computes the message. Owns a client of each object that is used. A call takes
effect once for each message, however often the message runs; so every run is begun with the message's key, and ended.
If the chain begins with a shared link, its calls for the messages of a chunk are made together, ahead of their turns.
The time that a call waits for an object that is down does not count toward the time limits. Raises what the clients
raise.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mqworker.amqp.properties import Properties
from mqworker.consumer.alarm import Alarm, SeatAlarm
from mqworker.consumer.register import Slot
from mqworker.ipc.consumer_messages import Item
from mqworker.ipc.stage_spec import StageSpec
from mqworker.shared_state.client import Argument, LinkAnswer, SharedClient
from mqworker.shared_state.identity import NO_MESSAGE, identify
from mqworker.shared_state.proxy import SharedProxy


class SharedCalls:
    """See the module head; implements jobs.chain.SharedCaller."""

    def __init__(self, spec: StageSpec, slot: Slot, alarm: "Alarm | SeatAlarm") -> None:
        self._spec = spec
        self._slot = slot
        self._waits = (0.0, 0.0)  # when the message began, and when it began to wait
        self._params = b"{}"
        self._here = threading.get_ident(), os.getpid()
        self._alarm = alarm
        self._clients: dict[str, SharedClient] = {}
        self._run = (NO_MESSAGE, False)
        self._parts: Counter[str] = Counter()  # how often each link was called in this run
        self._waiting = 0  # how many waits are going on, which suspend the time limits
        self._ahead: dict[int, LinkAnswer] = {}  # seq -> the answer to the first link's call
        self._answer: LinkAnswer | None = None  # the answer for the message in hand, until its turn

    def link(self, name: str, link: str, value: Any) -> Any:
        """Call `handle` of an object as a link of the chain; after a job that yields, once for each value."""
        answer, self._answer = self._answer, None
        if answer is not None:  # the chain begins with this link
            return answer.result()
        part = self._parts[link]
        self._parts[link] += 1
        return self._client(name).link(link, value, part)

    def ask_ahead(self, name: str, link: str, messages: Sequence[tuple[Item, Properties, Any]]) -> None:
        """Call `handle` as the first link for several messages of a chunk at once; each gets its answer in its turn.

        They share the time that this takes, so it counts toward no message's limits. A message that is then computed
        elsewhere gets the same answer there, because the answer is remembered.
        """
        self._ahead = {}
        if not messages:
            return
        config = self._spec.config
        arguments = [
            Argument(*identify(config, properties, item.properties, item.body), body)
            for item, properties, body in messages
        ]
        self._wait(True)
        try:
            answers = self._client(name).links(link, arguments)
        except Exception:  # noqa: BLE001 - no memory, or a timeout: each message will call on its own
            answers = []
        finally:
            self._wait(False)
        self._ahead = {item.seq: answer for (item, *_), answer in zip(messages, answers, strict=False)}

    def proxy(self, name: str) -> SharedProxy:
        """Return what a handler receives in an argument with the object's name."""
        return self._client(name).proxy()

    def use_params(self, params: Mapping[str, Any]) -> None:
        """Pass these parameters with all further calls."""
        self._params = msgspec.json.encode(params)
        for client in self._clients.values():
            client.use_params(self._params)

    def begin(self, item: Item, properties: Properties) -> None:
        """Note that the calls from now on belong to this message."""
        self._run = message, has_id = identify(self._spec.config, properties, item.properties, item.body)
        self._parts.clear()
        self._waiting = 0
        self._answer = self._ahead.pop(item.seq, None)
        for client in self._clients.values():
            client.begin(message, has_id=has_id)

    def end(self) -> None:
        """Note that the calls from now on belong to no message."""
        self._run = (NO_MESSAGE, False)
        for client in self._clients.values():
            client.end()

    def _wait(self, waiting: bool) -> None:
        """Suspend the time limits while a call waits for an object that is down, or resume them."""
        if (threading.get_ident(), os.getpid()) != self._here:
            return
        with self._alarm:  # it goes off before or after this block, never within it
            before = self._waiting
            self._waiting = before + 1 if waiting else max(0, before - 1)
            if bool(before) == bool(self._waiting):
                return
            now = time.monotonic()
            if waiting:
                self._waits = self._slot.wait(), now
            else:
                began, since = self._waits
                self._slot.go_on(began + now - since)
            self._alarm.wait(waiting)

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
