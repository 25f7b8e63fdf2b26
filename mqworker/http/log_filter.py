"""Which log lines a request asks for: read from its query, and found in lines as the log's writer keeps them.

Runs in the server's threads; the filter itself is pure. Most of it looks for a text in the line's JSON, without reading
it: a quote inside a value is escaped there.
"""

from typing import NamedTuple

import msgspec
from flask import request

from mqworker.http.problems import Problem
from mqworker.ipc.logs import LEVELS, says

FILTERS = ("level", "stage", "text", "message", "event")  # in the query
_HEAD = frozenset(("time", "level", "event", "service", "stage", "process", "pid"))


class LogFilter(NamedTuple):
    """Which lines are wanted; an empty text means any."""

    level: str = ""  # the least severe one
    stage: str = ""
    text: str = ""  # to be found in the message or in another field, ignoring case
    message: str = ""  # the id of the message that it is about
    event: str = ""

    def fits(self, line: str) -> bool:
        """Return whether a line is wanted."""
        wanted = (("stage", self.stage), ("message_id", self.message), ("event", self.event))
        if not all(_says(line, key, value) for key, value in wanted if value):
            return False
        return (not self.level or self._is_severe(line)) and (not self.text or self._has_text(line))

    def _is_severe(self, line: str) -> bool:
        least = LEVELS[self.level]
        return any(says(line, "level", name) for name, level in LEVELS.items() if level >= least)

    def _has_text(self, line: str) -> bool:
        wanted = self.text.casefold()
        fields = msgspec.json.decode(line)
        return any(wanted in str(value).casefold() for name, value in fields.items() if name not in _HEAD)


def _says(line: str, key: str, value: str) -> bool:
    """Return whether a line has this text at a key; what the Service itself logs of a stage has it at another one."""
    return says(line, key, value) or (key == "stage" and says(line, "stage_name", value))


def asked_filter() -> LogFilter:
    """Return what the query of this request asks for; raises a 422 Problem."""
    asked = {name: request.args.get(name, "") for name in LogFilter._fields}
    if asked["level"] not in ("", *LEVELS):
        reason = f"must be one of {', '.join(LEVELS)}"
        raise Problem(422, f"level {reason}", fields=[("level", reason)])
    return LogFilter(**asked)
