"""What the service's log must be: whole lines of JSON that contain nothing secret and nothing raw from outside.

Pure; part of the checker. The log also shows which messages were charged with a failure.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from tests.chaos.load import BODY_CANARY, LINE_CANARY

FIELDS = {"time", "level", "event", "msg"}


class Charge(NamedTuple):
    """A message that was retried or dead-lettered; `time` is wall clock."""

    time: float
    id: str
    reason: str
    words: str


def check(log: str, secrets: tuple[str, ...]) -> list[str]:
    """Return what is wrong with it."""
    problems = []
    trackers: set[int] = set()
    for number, line in enumerate(log.splitlines(), 1):
        try:
            event = json.loads(line)
        except ValueError:
            if number - 1 in trackers or "resource_tracker: " in line:
                trackers.add(number)  # the last words of a killed Service's tracker, on stderr
                continue
            problems.append(f"19 line {number} of the log is not JSON: {line[:200]!r}")
            continue
        if not isinstance(event, dict) or FIELDS - event.keys():
            problems.append(f"19 line {number} of the log has not {FIELDS}: {line[:200]!r}")
    problems += [f"19 the log shows a secret: {secret}" for secret in (*secrets, BODY_CANARY) if secret in log]
    if f"\n{LINE_CANARY}" in log or "\x1b" in log:
        problems.append("19 words from outside begin a line of the log, or an escape passes raw")
    return problems[:10]


def events(log: str) -> Iterator[dict[str, object]]:
    """Return the events that can be parsed."""
    for line in log.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def charges(log: str) -> list[Charge]:
    """Return the messages that were charged."""
    return [
        Charge(
            datetime.fromisoformat(str(event["time"])).timestamp(),
            str(event.get("message_id")),
            str(event.get("reason")),
            str(event.get("msg"))[:200],
        )
        for event in events(log)
        if event.get("event") in ("retried", "dead")
    ]
