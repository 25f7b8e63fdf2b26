"""Routes for one Consumer: where it is in its code, and replacing it by a new one.

Runs in the server's threads. Each asks the stage's Producer, through Control. Both are POSTs: the
first interrupts system calls of user code, for an instant.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mqworker.control.operator import STACK_DEADLINE, STORE_DEADLINE
from mqworker.http.problems import Problem
from mqworker.http.routing import API, Api, Route, body
from mqworker.ipc.inspection import AskReplace, AskStack, ReplaceAnswer, StackAnswer

_Pid = Annotated[int, Meta(ge=1, lt=2**31)]


class StackOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose stack: with `pid` that of this process, of the two that a slot has while one replaces another."""

    pid: _Pid | None = None


class Replacement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to replace a Consumer: when it has finished what it has, or now, which charges its message with a crash.

    With `pid` this process, of the two that a slot has while one replaces another, with `message_id` only if it has
    this message in hand, with `seq` only if it has the message with this number, or with 0 none: 409 otherwise.
    """

    now: bool = False
    pid: _Pid | None = None
    message_id: Annotated[str, Meta(max_length=255)] | None = None
    seq: Annotated[int, Meta(ge=0, lt=2**53)] | None = None


def stack(api: Api, stage: str, slot: str) -> Any:
    """Return the stacks of a Consumer: where its code is now."""
    name, request = api.stage(stage).name, AskStack(0, _number(slot), body(StackOf).pid or 0)
    found = api.control.ask(lambda operator: operator.ask_producer(name, request, STACK_DEADLINE), STACK_DEADLINE)
    assert isinstance(found, StackAnswer)
    return {
        "slot": found.slot,
        "pid": found.pid,
        "message_id": found.message_id or None,
        "seconds": round(found.seconds, 3) if found.seconds else None,
        "stack": found.text,
    }


def replace(api: Api, stage: str, slot: str) -> Any:
    """Replace a Consumer; of one that is killed, tell what it had in hand."""
    asked, number = body(Replacement), _number(slot)
    request = AskReplace(0, number, asked.now, asked.pid or 0, asked.message_id or "", asked.seq)
    name = api.stage(stage).name
    answer = api.control.ask(lambda operator: operator.ask_producer(name, request, STORE_DEADLINE), STORE_DEADLINE)
    assert isinstance(answer, ReplaceAnswer)
    document: dict[str, Any] = {"slot": number, "pid": answer.pid, "now": asked.now}
    if asked.now:
        document |= {"in_hand": answer.in_hand, "running": answer.running, "message_id": answer.message_id or None}
    return document, 202


def _number(slot: str) -> int:
    if not (slot.isascii() and slot.isdecimal() and len(slot) < 6):
        raise Problem(404, f"there is no Consumer {slot!r}: they have numbers, from 0", kind="unknown_slot")
    return int(slot)


_ONE = f"{API}/stages/<stage>/consumers/<slot>"
ROUTES = [
    Route("POST", f"{_ONE}/stack", stack, "Where a Consumer is in its code", body=StackOf),
    Route("POST", f"{_ONE}/replace", replace, "Replace a Consumer by a new one", body=Replacement),
]
