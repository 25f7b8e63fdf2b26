"""How `status` prints the stages as a line."""

import re
from typing import Any

from mqworker.cli.look import show, show_consumers, show_line


def view(name: str, left: float | None, reason: str = "nothing", **changes: Any) -> dict[str, Any]:
    """Return what the service tells of a stage."""
    actual = {"arrival_rate": 12.0, "service_time": 0.02, "utilisation": 0.25} | changes
    rest = {"unfinished": 3, "seconds_left": left, "growing": False, "held_back_by": reason}
    return {"name": name, "actual": actual} | rest


def lines(capsys, *stages: tuple[int, str, dict[str, Any] | None], bottleneck: str = "") -> list[str]:
    """Return what is printed, with single blanks between columns, after the head."""
    line = [{"name": name, "level": level, "feeds": [], "here": shown is not None} for level, name, shown in stages]
    views = {name: shown for _, name, shown in stages if shown is not None}
    show_line({"line": line, "stages": views, "bottlenecks": [bottleneck]})
    head, *rows = capsys.readouterr().out.splitlines()
    columns = ("line", "arriving/s", "service time", "utilisation", "unfinished", "done in", "held back by")
    places = [head.index(column) for column in columns]
    return ["|".join(row[at:to].rstrip() for at, to in zip(places, [*places[1:], None], strict=True)) for row in rows]


def test_it_reads_as_a_line(capsys):
    """Each stage is below those that feed it, with its figures and what holds it back; others' stages are named."""
    detect = view("detect", None, "consumers", service_time=2.5, utilisation=0.996) | {
        "growing": True,
        "unfinished": 1204,
    }
    unknown = {"arrival_rate": None, "service_time": None, "utilisation": None}
    store = view("store", None, "broker", **unknown) | {"unfinished": None}
    assert lines(
        capsys,
        *((0, "decode", view("decode", 0.0)), (1, "detect", detect), (2, "store", store), (2, "mail", None)),
        *((0, "apart", view("apart", 90.0)), (0, "stopped", store | {"actual": None, "held_back_by": "stopped"})),
        bottleneck="detect",
    ) == [
        "decode|12.0|20 ms|25%|3|0 s|nothing",
        "-> detect|12.0|2.5 s|100%|1,204|growing|consumers: the bottleneck",
        "   -> store|?|-|-|?|-|broker",
        "   -> mail|-|-|-|-|-|runs elsewhere",
        "apart|12.0|20 ms|25%|3|90 s|nothing",
        "stopped|?|-|-|?|-|stopped",
    ]


def test_one_stage_stands_at_the_margin(capsys):
    """With --stage there is no line to show, and no arrow."""
    assert lines(capsys, (2, "store", view("store", 0.0))) == ["store|12.0|20 ms|25%|3|0 s|nothing"]


def test_who_blocks_an_order_is_named_and_the_hottest_key(capsys):
    """The key is named where the order holds the stage back; where it does not, the most frequent one is no matter."""
    blocked = {"message_id": "7", "key": "camera-1", "seconds": 90, "behind": 5, "reason": "it is in hand"}
    order = {"blocked": blocked, "hottest": "camera-1", "hottest_messages": 40}
    counts = {"held": 30, "dispatched": 1, "computed": 9, "settling": 0, "backlog": 12, "rate": 0.0, "p95": 0.0}
    link = {"consuming": True, "connected": True}
    told = view("detect", None, "order", order=order, consumers=[], counters={}, link=link, **counts)
    desired = {"consumers": 1, "working": True, "running": True, "listening": True}
    told |= {"state": "running", "problem": "", "change": None, "desired": desired}
    service = {"service": "s", "state": "running", "started": 0.0, "revision": 1, "applied": 1, "pid": 1}

    def notes() -> list[str]:
        show(service | {"stages": {"detect": told}})
        return capsys.readouterr().err.splitlines()

    assert notes() == [
        "detect: blocked by message 7 of camera-1, here for 90 s: it is in hand; 5 wait behind it",
        "detect: the hottest key is camera-1: 40 of the 40 messages here have it",
    ]
    told["held_back_by"] = "consumers"
    order["blocked"] = None
    assert notes() == []


def test_no_time_is_told_that_cannot_come_true(capsys):
    """Where something else than its Consumers decides when a stage is done, that is said instead of a time."""
    assert lines(
        capsys,
        *((0, "decode", view("decode", None, "max_backlog")), (1, "track", view("track", None, "order"))),
        (2, "store", view("store", None, "paused") | {"unfinished": 0}),
    ) == [
        "decode|12.0|20 ms|25%|3|held back|max_backlog",
        "-> track|12.0|20 ms|25%|3|held back|order",
        "   -> store|12.0|20 ms|25%|0|-|paused",
    ]


def test_what_has_no_result_is_done(capsys):
    """A stage whose handler returns None has done its messages; nothing says that they were dropped."""
    desired = {"running": True, "working": True, "listening": True, "consumers": 1}
    actual = {
        "consumers": [{"state": "idle"}],
        "counters": {"result": 3, "dropped": 997, "retried": 0, "dead": 2},
        "link": {"connected": True, "consuming": True},
        "rate": 1.0,
        "p95": 0.1,
        "backlog": 0,
    }
    stage = {"state": "running", "problem": "", "change": None, "desired": desired, "actual": actual}
    fixed = {"service": "s", "state": "running", "pid": 1, "started": 0.0, "revision": 1, "applied": 1}
    show(fixed | {"stages": {"sink": stage}})
    _, head, row = capsys.readouterr().out.splitlines()
    told = dict(zip(re.split(r"  +", head), re.split(r"  +", row), strict=True))
    assert (told["done"], told["no result"], told["dead"]) == ("1000", "997", "2")
    assert "dropped" not in head


def test_what_each_consumer_works_on(capsys):
    """How many messages are in hand of how many it works on at once, and the oldest of them; a service of the edition
    before does not tell the first two.
    """
    one = {"slot": 0, "pid": 41, "state": "busy", "generation": 1, "done": 7, "rss": 3 << 20}
    oldest = {"message_seconds": 2.5, "message_id": "a"}
    messages = [{"seconds": 2.5, "message_id": "a"}, {"seconds": 0.1, "message_id": None}]
    idle = {"message_seconds": None, "message_id": None, "seats": 0, "messages": []}
    consumers = [
        one | oldest | {"seats": 64, "messages": messages},
        one | oldest | {"seats": 0, "messages": []},
        one | idle,
        one | {"message_seconds": 2.5, "message_id": "a"},
    ]
    show_consumers({"actual": {"consumers": consumers}})
    _, head, *rows = capsys.readouterr().out.splitlines()
    show_consumers({"actual": {"consumers": [consumers[0] | {"held_seconds": 70.0, "held_by": "a"}]}})
    assert "Consumer 0: message a holds it for 70 s, and what else" in capsys.readouterr().out
    told = [dict(zip(re.split(r"  +", head), re.split(r"  +", row), strict=True)) for row in rows]
    assert [(each["in hand"], each["for"], each["message id"]) for each in told] == [
        ("2/64", "2.5 s", "a"),
        ("1/1", "2.5 s", "a"),
        ("0/1", "-", "-"),
        ("1/1", "2.5 s", "a"),
    ]
