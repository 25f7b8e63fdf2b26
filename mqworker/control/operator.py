"""What the main thread carries out for the HTTP threads, and how long each may take.

`service/operations` is the Operator. `Control.ask` calls its operations, which run on the main loop and fail with
ControlError or ChangeRefused. One that asks a process ends in time by itself: within the deadline or the patience that
it takes as an argument, or else within one of its own, for which the caller allows STORE_DEADLINE (`ask_held`),
FIND_DEADLINE (`find_message`) or BULK_DEADLINE (`bulk`). The caller gives this to `Control.ask`, which waits a little
longer.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from mqworker.control.chain import Edit
from mqworker.control.desired_state import Change, SetLimits
from mqworker.control.errors import ControlError
from mqworker.ipc.admin_messages import BulkView
from mqworker.ipc.inspection import InspectionAnswer, InspectionRequest, MessageAnswer
from mqworker.ipc.producer_messages import Held
from mqworker.ipc.source_messages import RunDone

STORE_DEADLINE = 5.0  # seconds for the main thread to store a change
BULK_DEADLINE = 15.0  # seconds for an operation on dead letters to begin, or to take notice of its end
ADMIN_GRACE = 2.0  # seconds beyond a request's deadline until a broker admin that does not answer is killed
FIND_DEADLINE = 1.0  # seconds to find a message
STACK_DEADLINE = 2.0  # seconds for a Consumer to report where it is


class Stored(NamedTuple):
    """A change that is stored."""

    revision: int
    change: int = 0  # the code of the candidate that it has become, by which its end is recognised; 0: it is in force


class ParamsForm(NamedTuple):
    """What the parameters of a stage may be."""

    schema: dict[str, Any] | None  # JSON Schema; None: the code does not say
    defaults: dict[str, Any]  # the parameters in use, with the code's defaults filled in
    generation: int


class Bulk(Protocol):
    """Operations on many dead letters, for Control: `all` and `counts` are replaced, never changed."""

    all: tuple[BulkView, ...]
    counts: Mapping[tuple[str, str, str], int]

    async def begin(self, stage: str, selection: str, kind: str, count: int, by: str) -> BulkView:
        """Begin to replay or drop what is selected. Raises ControlError."""

    async def cancel(self, operation: str) -> BulkView:
        """End an operation before its next batch. Raises ControlError."""


class Operator(Protocol):
    """The operations that the main thread carries out on its loop, for Control."""

    async def change(self, asked: Change) -> int:
        """Store a change; returns its revision. Raises ControlError."""

    async def reload(self, stage: str, params: dict[str, Any], patience: float) -> Stored:
        """Check the code in the folder and replace all Consumers with new ones that run it; returns the revision.

        `params`: a merge patch of the parameters, which takes effect with it.

        Raises ChangeRefused, ControlError; patience as for `patch_params`.
        """

    async def go_back(self, stage: str, generation: int | None, patience: float) -> Stored:
        """Check an earlier generation and bring it back: the one with this number, or the one before; see `reload`."""

    async def edit_jobs(
        self, stage: str, edit: Edit, params: dict[str, Any], expected: tuple[str, ...] | None, patience: float
    ) -> Stored:
        """Change the chain, and parameters by a merge patch, if it is at one of these generations; as `reload`.

        Also raises ControlError("conflict") and ControlError("unknown_job").
        """

    async def patch_params(
        self, stage: str, patch: dict[str, Any], expected: tuple[str, ...] | None, patience: float
    ) -> Stored:
        """Validate and store a merge patch; returns its revision. Raises ChangeRefused, ControlError.

        With `expected`, if the parameters are those of one of these generations; else it raises
        ControlError("conflict").

        After `patience` seconds it raises ControlError("deadline"), but the change goes on, so that parameters can be
        changed even if the user's code takes minutes to import.
        """

    async def rollback_params(self, stage: str, expected: tuple[str, ...] | None, patience: float) -> Stored:
        """Do the same with the previous parameters."""

    async def params_form(self, stage: str, patience: float) -> ParamsForm:
        """Return what the parameters of a stage may be. Raises ChangeRefused, ControlError."""

    async def set_limits(self, asked: SetLimits, patience: float) -> Stored:
        """Store time limits, if a soft one can interrupt the jobs; as `patch_params`."""

    async def ask_admin(self, verb: str, arguments: dict[str, Any], deadline: float) -> Any:
        """Let the broker admin carry out a verb. Raises ControlError, also with the kinds of the broker admin."""

    @property
    def bulk(self) -> "Bulk":
        """The operations on dead letters."""

    async def reset_shared(self, name: str) -> None:
        """Replace a shared object by a new one. Raises ControlError."""

    async def ask_held(self, stage: str, skip: str) -> Held:
        """Return the failed messages that a stage holds, or let the one with this id go. Raises ControlError."""

    async def ask_producer(self, stage: str, request: InspectionRequest, deadline: float) -> InspectionAnswer:
        """Return the answer of a stage's Producer. Raises ControlError, also if it refuses."""

    async def find_message(self, message_id: str) -> "dict[str, MessageAnswer | ControlError]":
        """Ask every stage for a message; returns for each its answer, or why there is none."""

    async def find_letters(self, message_id: str, deadline: float, *, look: bool) -> dict[str, Any]:
        """Return the dead letters of a message, as they were seen last, or after a look. Raises ControlError."""

    async def start_source(self, name: str, patience: float) -> int:
        """Check the code of a source in the folder, and run it; returns the revision.

        A source that has finished begins again; one that runs this code goes on. Raises ChangeRefused, ControlError.
        """

    async def run_source(self, name: str, patience: float) -> RunDone:
        """Call a scheduled function now, and return when it has ended. Raises ControlError."""

    async def drain(self) -> None:
        """Begin to end the service, as SIGTERM does."""
