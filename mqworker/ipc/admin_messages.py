"""What the Service asks the broker admin, and what that answers; what is said about dead letters: frozen records.

    Service  --AdminRequest-->               Broker admin
    Service  <--AdminAnswer, AdminProgress--  Broker admin

HTTP, the Service and the broker admin use the same forms of a filter, of a letter in a list, and of an operation on
many letters.
"""

from hashlib import sha256
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mqworker.ipc.records import LogEvent, TaggedRecord

LOOK_AT = 10_000  # dead letters that one look goes through, and that a selection names at most
NAMED = 3_000  # ids in a filter: as many as a request without messages has room for

Text = Annotated[str, Meta(min_length=1, max_length=1000)]  # an empty one would fit every letter


class AdminRequest(TaggedRecord, frozen=True, tag="ask"):
    """One request to the broker admin; `verb` names one of mqworker.broker_admin.verbs.VERBS."""

    id: int
    verb: str
    due: float  # CLOCK_MONOTONIC: when the caller gives up
    arguments: dict[str, Any]


class AdminAnswer(TaggedRecord, frozen=True, tag="answer"):
    """The answer: `value`, or `error` with its kind (unavailable | refused | internal)."""

    id: int
    value: Any = None
    error: str = ""
    kind: str = ""


class LetterFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which dead letters: those that fit everything that is given; without anything, all.

    What is not given is "", which is not accepted as what is asked for: whoever gives a filter does not mean all.
    """

    reason: Text = ""
    error_type: Text = ""
    place: Text = ""
    fault: Text = ""  # the key of a group
    message_id: Text = ""  # the whole of it
    text: Text = ""  # part of the message id, of the error's text, or of a header's value
    header: Text = ""  # NAME=VALUE
    since: Text = ""  # RFC 3339, of `failed_at`; from here on
    until: Text = ""  # as above; before this
    attempt: int | None = None
    generation: int | None = None
    ids: Annotated[list[Text], Meta(max_length=NAMED)] | None = None
    limit: Annotated[int, Meta(ge=1, le=LOOK_AT)] = LOOK_AT  # the oldest ones


class LetterRow(msgspec.Struct, frozen=True, gc=False):
    """One dead letter in a list; what it does not say is "" or null."""

    id: str
    message_id: str | None
    reason: str
    error_type: str
    place: str  # where in the user's code it failed
    text: str  # of the error, its first 300 characters
    failed_at: str | None
    first_failed_at: str | None
    attempt: int | None
    crashes: int | None
    generation: int | None
    host: str | None
    replayed: int
    content_type: str | None
    size: int
    ours: bool  # it has a reason of ours


class AdminProgress(msgspec.Struct, frozen=True, tag="progress"):
    """How far an operation on a selection is. The last one has a state that is over."""

    operation: str
    state: str  # looking | moving | cancelling | done | cancelled | failed
    looked: int  # letters that were looked at
    done: int  # letters of the selection that have been moved
    wanted: int
    gone: int  # letters that were no longer there; known at the end
    unsure: int  # letters that may be in both queues
    refused: int  # letters that the broker refused
    reason: str
    at: float  # wall clock


AdminReport = AdminAnswer | AdminProgress | LogEvent


OVER = frozenset({"done", "cancelled", "failed"})  # states of an operation


class BulkView(msgspec.Struct, frozen=True):
    """An operation as an operator sees it."""

    operation: str
    state: str
    stage: str
    kind: str  # replay | drop
    by: str
    looked: int
    done: int
    wanted: int
    gone: int
    unsure: int
    refused: int
    reason: str
    began: float  # wall clock
    at: float

    @property
    def over(self) -> bool:
        """Return whether nothing of it will change any more."""
        return self.state in OVER


def fault_key(reason: str, error_type: str, place: str) -> str:
    """Return the key of the group of failures with this reason, type of error, and place in the code."""
    named = f"{reason}\0{error_type}\0{place}"
    return sha256(named.encode("utf-8", "backslashreplace")).hexdigest()[:12]
