"""The broker admin: one process that queries the broker on behalf of HTTP and the command line.

It looks at queues, purges, deletes, sends, waits for results and goes through dead letters, over a broker connection of
its own, so that all this works while a stage is stopped. Its death costs nothing but the answers in progress (decision
12). Receives the Config once, then AdminRequests, many at a time; sends AdminAnswers, the AdminProgress of operations,
and log events. An answer that is too large for the pipe becomes a refusal. It ends when the Service's pipe does; the
Service's side is `client`.
"""

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING

import msgspec

from mqworker.broker_admin.refused import VerbRefused
from mqworker.brokers.base import BrokerRefused, BrokerUnavailable
from mqworker.config.model import Config
from mqworker.ipc import logs
from mqworker.ipc.admin_messages import AdminAnswer, AdminProgress, AdminRequest
from mqworker.ipc.frame_streams import FrameReader, FrameWriter
from mqworker.ipc.frames import FrameTooLarge, read_frame
from mqworker.ipc.records import LogEvent
from mqworker.ipc.spawn import Spawned

if TYPE_CHECKING:
    from mqworker.broker_admin.verbs import Verbs

LEAST = 0.1  # least seconds for a request, even if it was in the pipe for longer than its deadline
ROOM_DEADLINE = 2.0  # seconds to wait until the pipe has room for an answer

_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(AdminRequest)

log = logging.getLogger("mqworker.broker_admin.process")


class BrokerAdmin(Spawned):
    """See the module head."""

    title = "mqw-admin"

    def __init__(self) -> None:
        super().__init__("broker-admin")

    def load(self) -> None:
        """Import the code that answers, which the Service does not need."""
        from mqworker.broker_admin.verbs import VERBS, Verbs  # noqa: PLC0415 - the Service imports this module

        self._verbs, self._known = Verbs, VERBS

    def main(self) -> None:
        """Answer until the Service is gone."""
        config = msgspec.msgpack.decode(read_frame(self.down.fileno()), type=Config)
        asyncio.run(self._main(config))
        os._exit(0)

    async def _main(self, config: Config) -> None:
        self._writer = FrameWriter(self.up.fileno())
        self._tasks: set[asyncio.Task[None]] = set()
        logs.use(logs.ForwardingHandler(self._forward, self.name), logging.INFO)
        over = asyncio.Event()
        verbs = self._verbs(config, self._tell)

        def on_request(payload: bytes) -> None:
            task = asyncio.create_task(self._answer(verbs, _requests.decode(payload)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        reader = FrameReader(self.down.fileno(), on_request, lambda _reason: over.set())
        await over.wait()
        reader.close()

    def _tell(self, progress: AdminProgress) -> None:
        self._writer.send(_encoder.encode(progress))

    def _forward(self, event: LogEvent) -> None:
        self._writer.send(_encoder.encode(event), droppable=True)

    async def _answer(self, verbs: "Verbs", request: AdminRequest) -> None:
        deadline = max(LEAST, request.due - time.monotonic())
        try:
            value = await self._known[request.verb](verbs, deadline, **request.arguments)
            async with asyncio.timeout(ROOM_DEADLINE):
                await self._writer.put(_encoder.encode(AdminAnswer(request.id, value)))
        except FrameTooLarge as error:
            self._refuse(request, f"the answer is too large: {error}", "refused")
        except VerbRefused as error:
            self._refuse(request, str(error), error.kind)
        except BrokerUnavailable as error:
            self._refuse(request, str(error), "unavailable")
        except BrokerRefused as error:
            self._refuse(request, str(error), "refused")
        except TimeoutError:
            self._refuse(request, f"no answer within {deadline:.2g} s", "deadline")
        except Exception as error:
            log.exception("the broker admin failed at %s", request.verb, extra={"event": "desk_failed"})
            self._refuse(request, f"{type(error).__name__}: {error}", "internal")

    def _refuse(self, request: AdminRequest, why: str, kind: str) -> None:
        self._writer.send(_encoder.encode(AdminAnswer(request.id, error=why, kind=kind)))
