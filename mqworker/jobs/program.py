"""Programs as jobs of a chain: encodes the value, runs the program, turns its end into a result or a failure.

Runs in a Consumer's main thread (or a user's test). `Programs` owns the keeper that all programs of a chain share: one
of them runs at a time. Raises Reject, Retry, ProgramError, SoftTimeLimit or HardTimeLimit, which fail the message, and
whatever the codecs raise.
"""

import functools
import logging
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

from mqworker.amqp.labels import labels
from mqworker.config.model import ATTEMPT, MESSAGE_ID, STAGE, StageConfig
from mqworker.config.programs import command_of, shown
from mqworker.errors import HardTimeLimit, ProgramError, Reject, Retry, SoftTimeLimit
from mqworker.ipc.logs import report
from mqworker.ipc.spawn import Death
from mqworker.jobs.codecs import OversizedError, UndecodableError, decode, encode, encode_as
from mqworker.jobs.content_types import TEXT_TYPE
from mqworker.jobs.loading import Job
from mqworker.jobs.message import Message
from mqworker.jobs.program_run import CannotStart, Command, Keeper, KeeperLost, ProgramEnd

REASON = 500  # characters of stderr's last line that become the reason of a Reject or Retry


class Clock(Protocol):
    """The time limits of the message in hand."""

    def take_over(self) -> tuple[float, float]:
        """Return how many seconds are left until the soft and the hard limit (inf: none).

        Until `give_back` the soft limit does not interrupt anything: the caller enforces it.
        """

    def give_back(self, soft: float) -> None:
        """Let the soft limit interrupt again, after this many seconds; 0: it has passed."""


class NoLimits:
    """Stands in where there are no time limits."""

    def take_over(self) -> tuple[float, float]:
        """See Clock."""
        return math.inf, math.inf

    def give_back(self, soft: float) -> None:
        """See Clock."""


class Programs:
    """The programs of one chain."""

    def __init__(self, stage: str, config: StageConfig, clock: Clock | None = None) -> None:
        """`clock` has the time limits; None if there are none."""
        self._stage = stage
        self._config = config
        self._clock = clock or NoLimits()
        self._keeper = Keeper()

    def setup(self) -> None:
        """Start the keeper; raises OSError and CannotStart."""
        self._keeper.start()

    def teardown(self) -> None:
        """End the keeper."""
        self._keeper.close()

    def make(self, job: Job) -> Callable[..., Any]:
        """Return the function that runs a program as a job."""
        assert job.program is not None
        command = Command(job.program.file, command_of(job.spec), job.program.folder)
        return functools.partial(self._handle, shown(job.spec), command)

    def _handle(self, name: str, command: Command, body: Any, message: Message, log: logging.Logger) -> Any:
        data = self._encode(body)
        environment = self._environment(message)

        def say(line: str) -> None:
            report(log, logging.INFO, "output", line, program=name)

        soft, hard = self._clock.take_over()
        now, most = time.monotonic(), self._config.max_results_bytes
        try:
            end = self._keeper.run(command, data, environment, now + soft, now + hard, most, say)
        except KeeperLost:
            raise ProgramError(f"{name} was killed, because the process that runs programs was killed") from None
        except CannotStart as error:
            raise ProgramError(f"{name} could not be started: {error}") from None
        finally:
            self._clock.give_back(max(0.0, now + soft - time.monotonic()))
        if end.left:
            many = f"{end.left} process{'es' if end.left > 1 else ''}"
            stuck = f"; {end.stuck} could not be killed" if end.stuck else ""
            level = logging.WARNING if end.stuck else logging.INFO
            report(log, level, "program_left", f"{name} left {many}, which were killed{stuck}", program=name)
        return self._result(name, end)

    def _encode(self, body: Any) -> bytes:
        """Return what the program gets on stdin: bytes unchanged, text as UTF-8, anything else encoded by the codec."""
        if isinstance(body, bytes | bytearray | memoryview | str):
            return encode_as(body, TEXT_TYPE)
        return encode(body, self._config.codec, nan=self._config.nan)[0]

    def _environment(self, message: Message) -> dict[str, str]:
        """Return the environment variables that the program gets in addition to its Consumer's."""
        message_id = labels(message._block, message.body, self._config.input.queue)["message_id"]
        found = {MESSAGE_ID: message_id, STAGE: self._stage, ATTEMPT: str(message.attempt)}
        return {name: value.replace("\0", "") for name, value in found.items()}

    def _result(self, name: str, end: ProgramEnd) -> Any:
        """Return what the program wrote to stdout, decoded; raises the exception that its end stands for."""
        if end.stopped == "output":
            limit = self._config.max_results_bytes
            raise OversizedError(f"{name} wrote more than {limit:,} bytes to stdout, which max_results_bytes allows")
        how = f"{name} {Death(end.code, end.peak_rss)}"
        match end.code:
            case 0:
                try:
                    return decode(end.output, None, None, self._config.codec)
                except UndecodableError as error:
                    what = f"{name} exited with code 0, but what it wrote to stdout cannot be used: {error}"
                    raise _with_errors(ProgramError(what), end) from None
            case 65:  # EX_DATAERR of sysexits.h
                raise _with_errors(Reject(_reason(how, end)), end)
            case 75:  # EX_TEMPFAIL
                raise _with_errors(Retry(reason=_reason(how, end)), end)
        if end.stopped == "hard":
            raise _with_errors(HardTimeLimit(f"{how}: the hard time limit has passed"), end)
        if end.stopped == "soft":
            raise _with_errors(SoftTimeLimit(f"{how}: the soft time limit has passed"), end)
        raise _with_errors(ProgramError(how), end)


def _reason(how: str, end: ProgramEnd) -> str:
    """Return the last line of stderr as the reason; without one, how the program ended."""
    lines = end.errors.strip().splitlines()
    return lines[-1][:REASON] if lines else how


def _with_errors(failed: Exception, end: ProgramEnd) -> Exception:
    """Add the end of stderr as evidence."""
    if end.errors.strip():
        failed.add_note(f"the last of its stderr:\n{end.errors.rstrip()}")
    return failed
