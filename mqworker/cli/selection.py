"""Dead letters that a verb selects, and the operation on them: frozen by the service, confirmed by their number.

Runs in the user's process. The selection and the operation are the service's; this waits for its end and shows how far
it is. Ctrl-C ends the operation before its next batch.
"""

import signal
import time
from types import FrameType
from typing import Any, Self
from urllib.parse import quote

import click

from mqworker.cli import output
from mqworker.cli.options import Failed, ServiceClient, stage_path
from mqworker.exits import Exit

FIRST, POLL = 0.02, 0.2  # seconds between two requests for its progress, at first and later
PATIENCE = 2.0  # seconds that Ctrl-C waits for the end
ALIASES = {"type": "error_type", "message": "message_id"}
NUMBERS = ("attempt", "generation")
NAMES = ("reason", "type", "place", "fault", "message", "text", "header", "since", "until", *NUMBERS)
OVER = ("done", "cancelled", "failed")
EMPTY = "Is a variable of the shell unset? Leave out a filter that is not meant."

filter_option = click.option(
    "--filter",
    "-f",
    "filters",
    multiple=True,
    metavar="NAME=VALUE",
    help=f"Only those that fit; may be given several times. Names: {', '.join(NAMES)}.",
)


reason_option = click.option("--reason", metavar="REASON", help="All with this reason, e.g. error or crash.")


def parsed(filters: tuple[str, ...], reason: str | None = None) -> dict[str, Any]:
    """Return the filter that options ask for; raises UsageError, also for an empty one: every letter fits that."""
    if reason == "":
        raise click.UsageError(f"--reason has no value: every dead letter would fit it. {EMPTY}")
    found: dict[str, Any] = {"reason": reason} if reason else {}
    for each in filters:
        name, equals, value = each.partition("=")
        if not equals or name not in (*NAMES, *ALIASES.values()):
            raise click.UsageError(f"--filter {each}: give NAME=VALUE, with one of {', '.join(NAMES)}.")
        if not value:
            raise click.UsageError(f"--filter {each} has no value: every dead letter would fit it. {EMPTY}")
        if name in NUMBERS and not value.lstrip("-").isdecimal():
            raise click.UsageError(f"--filter {each}: {name} is a number.")
        found[ALIASES.get(name, name)] = int(value) if name in NUMBERS else value
    return found


class _Interrupts:
    """Has the first Ctrl-C wait for the answer to what is asked inside: an operation is ended by its name."""

    def __init__(self) -> None:
        self.early = False  # it came

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def deliver(self) -> None:
        """Raise KeyboardInterrupt if it came meanwhile."""
        if self.early:
            raise KeyboardInterrupt

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self.early:
            output.note("interrupted: it may have begun; `mqworker operations list` shows it")
            self.deliver()
        self.early = True


class Selected:
    """Dead letters of one stage that are selected."""

    def __init__(self, service: ServiceClient, stage: str, chosen: dict[str, Any]) -> None:
        """Select them; `chosen` is the filter."""
        self._service = service
        self._stage = stage
        self._path = stage_path(stage, "/dlq/selections")
        answer = service.client.call("POST", self._path, chosen)
        self.name: str = answer["selection"]
        self.count: int = answer["count"]
        self.complete: bool = answer["complete"]

    def rest(self, limit: int) -> str:
        """Return a remark on letters that are not in it, although they fit."""
        left_out = not self.complete or self.count >= limit
        return " (the oldest ones; there may be more)" if left_out else ""

    def must_have(self, ids: tuple[str, ...]) -> None:
        """Raise `Failed` unless all of these are in it; equal letters have the same id."""
        missing = len(set(ids)) - self.count
        if missing > 0:
            of = f"{missing} of the given IDs {'is' if missing == 1 else 'are'} not in the dead-letter queue of stage"
            listed = f"`mqworker dlq list --stage {self._stage}` shows those that are"
            raise Failed(Exit.USAGE, output.clean(f"{of} {self._stage}; {listed}"))

    @property
    def export_path(self) -> str:
        """Return where they are in full."""
        return f"{self._path}/{self.name}/export"

    def carry_out(self, kind: str, participle: str) -> dict[str, Any]:
        """Replay or drop them, and wait for the end; `participle`: for the output. Returns the operation."""
        if not self.count:
            return {"state": "done", "done": 0, "gone": 0, "unsure": 0, "refused": 0, "reason": ""}
        client = self._service.client
        with _Interrupts() as asked:
            begun = client.call("POST", f"{self._path}/{self.name}/{kind}", {"count": self.count})["operation"]
        path = f"/operations/{quote(begun, safe='')}"
        progress = output.Progress()
        pause = FIRST
        try:
            asked.deliver()
            while True:
                view: dict[str, Any] = client.get(path)
                if view["state"] in OVER:
                    return view
                looked = f", {view['looked']} looked at" if view["state"] == "looking" else ""
                progress.update(f"{view['done']} of {self.count} {participle}{looked}")
                time.sleep(pause)
                pause = min(POLL, 2 * pause)
        except KeyboardInterrupt:
            client.close()  # it may have been in the middle of a request
            view, end = client.call("DELETE", path), time.monotonic() + PATIENCE
            while view["state"] not in OVER and time.monotonic() < end:
                time.sleep(POLL)
                view = client.get(path)
            progress.done()
            output.note(f"interrupted: {view['done']} of {self.count} {participle}")
            raise
        finally:
            progress.done()


def check(view: dict[str, Any], participle: str) -> None:
    """Raise `Failed` unless an operation has done what was asked for."""
    if view["gone"]:
        output.note(f"{view['gone']} were no longer there")
    if view["refused"] and view["state"] == "done":
        raise Failed(Exit.USAGE, output.clean(f"{view['refused']} could not be {participle}: {view['reason']}"))
    if view["state"] == "cancelled":
        raise Failed(Exit.INTERNAL, f"cancelled: {view['done']} {participle}")
    if view["state"] == "failed":
        unsure = f"; up to {view['unsure']} may be in both queues" if view["unsure"] else ""
        code = Exit.USAGE if view["refused"] else Exit.BROKER_UNREACHABLE
        raise Failed(code, output.clean(f"stopped: {view['reason']}{unsure}"))
