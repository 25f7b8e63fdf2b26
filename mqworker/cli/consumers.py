"""`mqworker stack SLOT` and `mqworker replace SLOT`: where one Consumer is in its code, and a new one in its place."""

from typing import Any

import click

from mqworker.address import CallError
from mqworker.cli import output
from mqworker.cli.options import ServiceClient, Verb, stage_path, uses_service
from mqworker.ipc.slots import meant

LONGEST = 255  # characters of an id that the service compares; `seq` tells longer ones apart
LONG = 2.0  # seconds for which a message must have run to be the one that is meant: a status is up to a second old


@click.command(cls=Verb)
@click.argument("slot", type=click.IntRange(0), metavar="SLOT")
@uses_service()
def stack(service: ServiceClient, slot: int) -> None:
    """Show where the Consumer with this slot is in its code: of each thread the innermost call first.

    It works while native code runs and while the Consumer is set up. Of several messages at once in one loop it also
    shows where each waits. `mqworker status --stage NAME` lists the slots.

    Example:
      mqworker stack 0 --stage energy
    """
    stage = service.one_stage()
    found = service.client.call("POST", stage_path(stage, f"/consumers/{slot}/stack"))
    if service.as_json:
        output.data(found)
        return
    output.note(output.clean(f"Consumer {slot} of {stage}, pid {found['pid']}: {_in_hand(found)}"))
    for line in found["stack"].splitlines():
        click.echo(output.clean(line))


@click.command(cls=Verb)
@click.argument("slot", type=click.IntRange(0), metavar="SLOT")
@click.option("--now", is_flag=True, help="Kill it; a message that it works on alone counts as having crashed it.")
@click.option("--message", metavar="ID", help="Only if it has this message in hand.")
@uses_service()
def replace(service: ServiceClient, slot: int, now: bool, message: str | None) -> None:
    """Replace the Consumer with this slot by a new one, with the same code.

    It finishes what it has in hand first, and the new one works meanwhile. With --now it is killed, and its message is
    charged as with a crash: after crash.max of them, 3 by default, it is a dead letter. Of several in hand, only one
    that is known to be at fault is charged. The verb says which.

    The verb looks first, in a status that is up to a second old, and nothing is done if by then the slot has another
    process, or if the message that it had alone in hand there, for 2 s or longer, has ended. With --message it compares
    that id instead.

    Examples:
      mqworker replace 2 --stage energy
      mqworker replace 2 --stage energy --now
      mqworker replace 2 --stage energy --now --message frame-4711
    """
    stage = service.one_stage()
    seen = _seen(service.client.get(stage_path(stage)), slot) if now else {}
    asked: dict[str, Any] = {"now": now} | _only_if(seen, message, now=now)
    try:
        answer = service.client.call("POST", stage_path(stage, f"/consumers/{slot}/replace"), asked)
    except CallError as error:
        if error.status != 409 or len(asked) == 1:
            raise
        more = f"; `mqworker stack {slot} --stage {stage}` shows where it is"
        raise CallError(error.code, f"{error}{more}", error.status, error.problem) from None
    if service.as_json:
        output.data(answer)
        return
    how = "is replaced, and leaves when it has finished what it has"
    if now:
        how = f"is killed, and replaced; {_charged(answer)}"
    output.note(output.clean(f"{stage}: Consumer {slot} (pid {answer['pid']}) {how}"))


def _seen(view: dict[str, Any], slot: int) -> dict[str, Any]:
    """Return the Consumer that a slot has now, as its stage tells; empty: there is none."""
    found = [each for each in (view["actual"] or {"consumers": ()})["consumers"] if each["slot"] == slot]
    place = meant([each["state"] for each in found])
    return {} if place is None else found[place]


def _only_if(seen: dict[str, Any], message: str | None, *, now: bool) -> dict[str, Any]:
    """Return what the Consumer must still be and have in hand when it is replaced: nobody meant another message.

    One that follows others quickly is nobody's concern, nor is one of several: then whatever is in hand is hit.
    """
    if message is not None:
        return {"message_id": message}
    if not now:
        return {}
    only = {"pid": seen.get("pid")}
    if (seen.get("message_seconds") or 0.0) >= LONG and len(seen["messages"]) <= 1:
        only |= {"message_id": seen["message_id"], "seq": seen["seq"]}
    return {name: value for name, value in only.items() if value and len(str(value)) <= LONGEST}


def _charged(killed: dict[str, Any]) -> str:
    """Return what becomes of the messages that a killed Consumer had in hand, as the service tells."""
    if "in_hand" not in killed:
        return "its message in hand is charged with a crash"  # all that a service of an earlier version lets us say
    many, running, name = killed["in_hand"], killed["running"], killed["message_id"]
    if not many:
        return "it had nothing in hand"
    if not running:
        what = "its message in hand waited" if many == 1 else f"its {many} messages in hand waited"
        return f"{what} for a shared object, and {'runs' if many == 1 else 'run'} again, uncharged"
    if running > 1:
        return f"its {many} messages in hand run again; the one at fault is charged with a crash, if that is known"
    what = f"message {name} is charged with a crash" if name else "its message in hand is charged with a crash"
    return f"{what}; what waited for a shared object runs again, uncharged" if many > 1 else what


def _in_hand(found: dict[str, Any]) -> str:
    if found["seconds"] is None:
        return "nothing in hand"
    return f"message {found['message_id'] or '(without an id)'} in hand for {output.seconds(found['seconds'])}"
