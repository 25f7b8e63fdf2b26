"""`mqworker status` and `mqworker logs`: look at a running service without changing it."""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import click

from mqworker.cli import output
from mqworker.cli.options import ServiceClient, Verb, progress, uses_service
from mqworker.cli.sources import show_all

LINES = 20  # shown at first
KEPT = 2000  # lines that the service keeps
LOG_LEVELS = ("debug", "info", "warning", "error")


@click.command(cls=Verb)
@uses_service()
def status(service: ServiceClient) -> None:
    """Show the desired and the actual state of the service and of each stage, and the stages as a line.

    In the line each stage follows those that feed it: messages arriving per second, the mean time of one in its
    handlers, the share of their time in which its Consumers have messages, how many messages are unfinished (waiting
    in the input queue, or taken and not settled), the time until they are done at the present rates, and what holds
    the stage back. `done` is what handlers have finished since the start; `no result` are those of them for which
    nothing was published, because the handler returned None: all of them in a stage that has no results.

    It asks the running service, never the broker, so it answers while the broker is down. With --stage it also shows
    what each Consumer is doing and for how long.

    Examples:
      mqworker status
      mqworker status --stage energy --json
      mqworker status --url http://127.0.0.1:5002
    """
    snapshot = service.status()
    if service.stage:
        if service.stage not in snapshot["stages"]:
            service.must_have_stage(service.stage)
        snapshot["stages"] = {service.stage: snapshot["stages"][service.stage]}
        snapshot["line"] = [place for place in snapshot.get("line", ()) if place["name"] == service.stage]
        snapshot["sources"] = [one for one in snapshot.get("sources", ()) if one["into"] == service.stage]
    if service.as_json:
        output.data(snapshot | {"stages": list(snapshot["stages"].values())})
        return
    show(snapshot)
    if service.stage:
        show_consumers(snapshot["stages"][service.stage])


def show(snapshot: dict[str, Any]) -> None:
    """Print a snapshot in readable form."""
    up = output.seconds(max(0.0, time.time() - snapshot["started"]))
    paused = ", paused" if snapshot.get("paused") else ""
    revision = snapshot["revision"]
    applied = snapshot["applied"]
    behind = "" if applied >= revision else f" (not all applied yet: {applied})"
    service = output.clean(snapshot["service"])
    click.echo(f"{service}: {snapshot['state']}{paused}, pid {snapshot['pid']}, up {up}, revision {revision}{behind}")
    head = (
        "stage",
        "state",
        "listening",
        "consumers",
        "rate/s",
        "p95",
        "done",
        "no result",
        "retried",
        "dead",
        "backlog",
    )
    line = snapshot.get("line", ())  # a service of an earlier version has none
    names = [place["name"] for place in line if place["here"]] or list(snapshot["stages"])
    output.table(head, [_row(name, snapshot["stages"][name]) for name in names])
    for name in names:
        if reason := snapshot["stages"][name].get("why"):  # a service of an earlier version has none
            remedy = reason.get("remedy")
            click.echo(f"{name}: {output.clean(reason['sentence'])}{f': {output.clean(remedy)}' if remedy else ''}")
    if line:
        click.echo()
        show_line(snapshot)
    if snapshot.get("sources"):
        click.echo()
        show_all(snapshot["sources"])
    for name, view in snapshot["stages"].items():
        for sentence in _notes(view):
            output.note(f"{name}: {output.clean(sentence)}")


def _notes(view: dict[str, Any]) -> Iterator[str]:
    """Yield what is to be noted of a stage; its problem only where its sentence (`why`) does not say it."""
    said = (view.get("why") or {"sentence": ""})["sentence"]
    if view["problem"] and view["problem"].lower() not in said.lower():
        yield view["problem"]
    yield from _order(view)
    change = view["change"]
    if view["desired"].get("folder_differs") and not change:
        yield "the folder had other code when it was last looked at; `mqworker restart` takes it"
    if change:
        yield progress(change)


def show_line(snapshot: dict[str, Any]) -> None:
    """Print the stages as a line: each after those that feed it, farther right the more stages are before it."""
    first = min((place["level"] for place in snapshot["line"]), default=0)
    rows = []
    for place in snapshot["line"]:
        depth = place["level"] - first
        view = snapshot["stages"].get(place["name"])
        name = "   " * (depth - 1) + "-> " * bool(depth) + place["name"]
        rows.append([name, *(_flow(view, snapshot["bottlenecks"]) if view else ["-"] * 5 + ["runs elsewhere"])])
    output.table(("line", "arriving/s", "service time", "utilisation", "unfinished", "done in", "held back by"), rows)


def _order(view: dict[str, Any]) -> Iterator[str]:
    """Yield what an operator should know of a stage's order: who blocks it, and the key that most messages have."""
    actual = view["actual"] or {}
    if not (order := actual.get("order")):
        return
    if order["blocked"]:
        yield _blocked(order["blocked"])
    if view.get("held_back_by") == "order" and order["hottest"]:
        here = sum(actual.get(state, 0) for state in ("held", "dispatched", "computed", "settling"))
        share = f"{order['hottest_messages']:,} of the {here:,} messages here"
        yield f"the hottest key is {order['hottest']}: {share} have it"


def _blocked(blocked: dict[str, Any]) -> str:
    of = f" of {blocked['key']}" if blocked["key"] else ""
    since = output.seconds(blocked["seconds"])
    return (
        f"blocked by message {blocked['message_id'] or '(without an id)'}{of}, here for {since}: {blocked['reason']};"
        f" {blocked['behind']:,} wait behind it"
    )


def _flow(view: dict[str, Any], bottlenecks: list[str]) -> list[str]:
    actual = view["actual"] or dict.fromkeys(("arrival_rate", "service_time", "utilisation"))
    unfinished = view["unfinished"]
    return [
        "?" if actual["arrival_rate"] is None else f"{actual['arrival_rate']:.1f}",
        "-" if actual["service_time"] is None else output.seconds(actual["service_time"]),
        "-" if actual["utilisation"] is None else f"{actual['utilisation']:.0%}",
        "?" if unfinished is None else f"{unfinished:,}",
        _done_in(view),
        view["held_back_by"] + (": the bottleneck" if view["name"] in bottlenecks else ""),
    ]


def _done_in(view: dict[str, Any]) -> str:
    """Return when a stage is done, if it goes on like this; only where its Consumers decide that."""
    if view["growing"]:
        return "growing"
    if view["seconds_left"] is not None:
        return output.seconds(view["seconds_left"]) if view["seconds_left"] else "0 s"
    held = view["unfinished"] and view["held_back_by"] not in ("consumers", "nothing")
    return "held back" if held else "-"


def show_consumers(view: dict[str, Any]) -> None:
    """Print what each Consumer of a stage is doing, and for how long."""
    head = ("slot", "pid", "state", "generation", "done", "memory", "cpu", "in hand", "for", "message id")
    rows = [
        (
            *(one[key] for key in ("slot", "pid", "state", "generation", "done")),
            output.size(one["rss"]),
            output.seconds(one.get("cpu", 0.0)),
            f"{len(one['messages'])}/{one['seats']}" if one.get("seats") else f"{int(bool(one['message_seconds']))}/1",
            output.seconds(one["message_seconds"]) if one["message_seconds"] else "-",
            one["message_id"] or "-",
        )
        for one in (view["actual"] or {"consumers": ()})["consumers"]
    ]
    if rows:
        click.echo()
        output.table(head, rows)
    for one in (view["actual"] or {"consumers": ()})["consumers"]:
        if one.get("exit"):
            ago = output.seconds(one["exit_seconds"])
            click.echo(f"Consumer {one['slot']}: the one before it ended {ago} ago: {output.clean(one['exit'])}")
    for one in (view["actual"] or {"consumers": ()})["consumers"]:
        if one.get("held_seconds"):
            by = output.clean(one["held_by"] or "")
            who = f"message {by} holds it" if by else "a message without an id, or other code, holds it"
            seconds = output.seconds(one["held_seconds"])
            click.echo(f"Consumer {one['slot']}: {who} for {seconds}, and what else it has in hand stands still")


def _row(name: str, view: dict[str, Any]) -> list[Any]:
    desired, actual = view["desired"], view["actual"]
    target = desired["consumers"] if desired["working"] and desired["running"] else 0
    consumers = f"{{}}/{target}{' auto' if desired.get('auto') else ''}"
    listening = "yes" if desired["listening"] else "no"
    if actual is None:
        return [name, view["state"], listening, consumers.format(0), *["-"] * 7]
    ready = sum(consumer["state"] in ("idle", "busy") for consumer in actual["consumers"])
    counters = actual["counters"]
    if desired["listening"] and not actual["link"]["consuming"]:
        waits = "standby" if actual["link"].get("waits") else "not yet"
        listening = waits if actual["link"]["connected"] else "no broker"
    return [
        name,
        view["state"],
        listening,
        consumers.format(ready),
        f"{actual['rate']:.1f}",
        output.seconds(actual["p95"]) if actual["p95"] else "-",
        counters.get("result", 0) + counters.get("dropped", 0),
        counters.get("dropped", 0),
        counters.get("retried", 0),
        counters.get("dead", 0),
        "?" if actual["backlog"] is None else actual["backlog"],
    ]


@click.command(cls=Verb)
@click.option("--follow", "-f", is_flag=True, help="Keep printing new lines until Ctrl-C.")
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(0, KEPT),
    help="How many lines to start with.  [default: 20, with --message all that the service still has]",
)
@click.option("--message", "-m", metavar="ID", help="Only lines about the message with this id.")
@click.option("--level", type=click.Choice(LOG_LEVELS), help="Only lines at least as severe.")
@click.option("--stage", "of", metavar="NAME", help="Only lines about this stage.")
@click.option("--text", "-t", metavar="TEXT", help="Only lines with this text, whatever the case of its letters.")
@uses_service(stage=False)
def logs(
    service: ServiceClient,
    follow: bool,
    lines: int | None,
    message: str | None,
    level: str | None,
    of: str | None,
    text: str | None,
) -> None:
    """Show the last log lines of the running service.

    With --message: what was logged about one message, and what its handler logged or printed. At level debug that is
    its whole life: received, begun, result, dropped, retried or dead.

    Examples:
      mqworker logs
      mqworker logs -f
      mqworker logs -f --stage energy --level warning
      mqworker logs -f --message 3f6c1a70-7a1e-4a52-a8ac-0c0ad3c1a7a4
      mqworker logs -n 200 --json | jq 'select(.level == "error")'
    """
    if lines is None:
        lines = LINES if message is None else KEPT
    path = f"/logs?lines={lines}"
    for name, value in (("message", message), ("level", level), ("stage", of), ("text", text)):
        if value is not None:
            path += f"&{name}={quote(value.encode('utf-8', 'backslashreplace'), safe='')}"  # as the log writes it
    service.must_have_stage(of)
    if not follow:
        for record in service.client.get(path)["lines"]:
            click.echo(json.dumps(record) if service.as_json else _readable(record))
        return
    with contextlib.suppress(KeyboardInterrupt):
        for event, data in service.client.events(f"{path}&follow=1"):
            record = json.loads(data)
            if event == "gap":
                output.note(f"({record['lost']} lines were lost: this terminal was too slow)")
            else:
                click.echo(data if service.as_json else _readable(record))
        output.note("the service ended the stream")


def _readable(record: dict[str, Any]) -> str:
    try:
        head = f"{record['time'][11:23]} {record['level']:7} {record['process']:20} {output.clean(record['msg'])}"
    except (KeyError, TypeError):
        return json.dumps(record)
    in_head = {"time", "level", "event", "msg", "service", "stage", "process", "pid", "traceback"}
    extra = " ".join(f"{key}={output.clean(value)}" for key, value in record.items() if key not in in_head)
    rows = [head + (f"  [{extra}]" if extra else "")]
    rows += [f"    | {output.clean(row)}" for row in str(record.get("traceback", "")).splitlines()]
    return "\n".join(rows)
