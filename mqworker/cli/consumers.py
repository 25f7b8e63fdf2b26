"""`mqworker stack SLOT` and `mqworker replace SLOT`: where one Consumer is in its code, and a new one in its place."""

from typing import Any

import click

from mqworker.cli import output
from mqworker.cli.options import ServiceClient, Verb, stage_path, uses_service


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
@click.option("--now", is_flag=True, help="Kill it; its message in hand counts as having crashed it.")
@uses_service()
def replace(service: ServiceClient, slot: int, now: bool) -> None:
    """Replace the Consumer with this slot by a new one, with the same code.

    It finishes what it has in hand first, and the new one works meanwhile. With --now it is killed, and its message is
    charged as with a crash: after crash.max of them, 3 by default, it is a dead letter.

    Examples:
      mqworker replace 2 --stage energy
      mqworker replace 2 --stage energy --now
    """
    stage = service.one_stage()
    answer = service.client.call("POST", stage_path(stage, f"/consumers/{slot}/replace"), {"now": now})
    if service.as_json:
        output.data(answer)
        return
    how = "is killed, and replaced" if now else "is replaced, and leaves when it has finished what it has"
    output.note(output.clean(f"{stage}: Consumer {slot} (pid {answer['pid']}) {how}"))


def _in_hand(found: dict[str, Any]) -> str:
    if found["seconds"] is None:
        return "nothing in hand"
    return f"message {found['message_id'] or '(without an id)'} in hand for {output.seconds(found['seconds'])}"
