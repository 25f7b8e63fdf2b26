"""Works on one message at a time in a Consumer that has several in hand, with a chain and a worker of its own.

Made in the thread that uses it: that of the seat, the companion beside the loop, or the loop's own if all jobs are
`async def`. Adopts the setting of each message before it begins.
"""

import json
import logging
import math
import time
from collections.abc import Callable

from mqworker.consumer.alarm import SeatAlarm, Uninterrupted, Waits
from mqworker.consumer.register import Slot
from mqworker.consumer.seats import SeatedMessage, Setting
from mqworker.consumer.work import RunOwner, Worker
from mqworker.ipc.generation import Generation
from mqworker.ipc.stage_spec import StageSpec
from mqworker.jobs.chain import Aside, Chain, ProgramRunner

OVER = 1.0  # seconds after the hard limit in which the Consumer itself may end what takes too long


class SeatClock:
    """The time limits of the message in a seat, for its programs; implements jobs.program.Clock."""

    def __init__(self, slot: Slot) -> None:
        self.setting: Setting | None = None
        self._slot = slot

    def take_over(self) -> tuple[float, float]:
        """Return how many seconds are left until the soft and the hard limit (inf: none)."""
        setting = self.setting
        ran = time.monotonic() - self._slot.started
        soft, hard = (setting.soft, setting.hard) if setting is not None else (0.0, 0.0)
        return (max(0.0, soft - ran) if soft else math.inf), (max(0.0, hard - ran) if hard else math.inf)

    def give_back(self, soft: float) -> None:
        """See Clock: nothing interrupts here."""


class Maker:
    """What all desks of a Consumer are made from."""

    def __init__(self, spec: StageSpec, generation: Generation, common: Chain, log: logging.Logger) -> None:
        """`common` is the chain of the process, which need not be set up yet."""
        self.spec = spec
        self.generation = generation
        self.common = common
        self.log = log
        self.has_programs = any(job.program is not None for job in common.jobs)
        self.has_plain_work = bool(generation.shared) or any(not job.is_async for job in common.jobs)


class Desk:
    """See the module head."""

    def __init__(
        self,
        maker: Maker,
        slot: Slot,
        make_worker: Callable[..., Worker] = Worker,
        aside: Aside | None = None,
        waits: Waits | None = None,
    ) -> None:
        """Make the desk and set it up, in its thread; raises whatever user code raises."""
        spec, generation = maker.spec, maker.generation
        self._clock = SeatClock(slot)
        self._setting: Setting | None = None
        shared: RunOwner | None = None
        calls = None
        if generation.shared:
            from mqworker.consumer.shared_calls import SharedCalls  # noqa: PLC0415 - where there are any

            shared = calls = SharedCalls(spec, slot, SeatAlarm(waits))
        programs: ProgramRunner | None = None
        if maker.has_programs:
            from mqworker.jobs.program import Programs  # noqa: PLC0415 - as above

            programs = Programs(spec.stage, spec.config, self._clock)
        self.chain = maker.common.local(json.loads(generation.params), calls, programs, aside)
        self.chain.setup(common=False)
        self.worker = make_worker(
            *(self.chain, spec.stage, spec.config, spec.broker, Uninterrupted(), shared), contained=True
        )
        self.worker.begin_generation(generation.number)
        self._params = generation.params

    def use(self, work: SeatedMessage) -> Exception | None:
        """Prepare for a message and its setting; returns the reason if the message cannot even begin.

        Raises OSError if user code has damaged our descriptors: the Consumer ends with the message in hand.
        """
        setting = work.setting
        if isinstance(work.lost, OSError):
            raise work.lost
        if setting is self._setting or work.lost is not None:
            return work.lost
        if setting.params != self._params:
            try:
                self.chain.apply_params(json.loads(setting.params))
            except Exception as error:  # noqa: BLE001 - the user's validation code may raise anything
                return error
            self._params = setting.params
        if setting.generation != self.worker.generation:
            self.worker.begin_generation(setting.generation)
        self.worker.soft_limit, self.worker.hard_limit = setting.soft, setting.hard
        self._clock.setting = self._setting = setting
        return None
