"""Electricity meters: rows of a SQLite table become messages, in order, and each hour is summed up.

`readings` is a source by rising id: its position is the id of the last row, so after any death it goes on behind what
was stored. `hour` is called by a schedule. Both go into one stage, whose handler looks at readings and passes sums on.
"""

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec

from mqworker import Item, Reject

WAIT = 0.2  # seconds between two looks while there is nothing new
TOGETHER = 500  # rows read at once

Message = dict[str, Any]


@dataclass
class Params:
    """Where the readings are; from which power on one is told, in watts."""

    database: str = "meters.db"
    alarm: Annotated[float, msgspec.Meta(gt=0)] = 3000.0


def readings(position: int | None, params: Params, log: logging.Logger) -> Iterator[Item | None]:
    """Yield every row behind the position, for ever: new ones as they are written."""
    last = position or 0
    log.info("readings after row %d", last)
    while True:
        rows = _rows(params.database, last)
        for last, meter, at, watts in rows:
            yield Item({"meter": meter, "at": at, "watts": watts}, position=last)
        if not rows:
            yield None  # nothing new; here it can be stopped
            time.sleep(WAIT)


def hour(due: datetime, params: Params) -> Message:
    """Return the sum of the hour that has just ended."""
    began = due - timedelta(hours=1)
    query = "SELECT count(*), coalesce(sum(watts), 0) FROM reading WHERE at >= ? AND at < ?"
    with closing(sqlite3.connect(f"file:{params.database}?mode=ro", uri=True)) as database:
        count, watts = database.execute(query, (began.timestamp(), due.timestamp())).fetchone()
    return {"hour": began.isoformat(), "readings": count, "watts": watts}


def check(message: Message, params: Params) -> Message | None:
    """Pass on what is worth telling: sums, and readings above the alarm."""
    if "hour" in message:
        return message
    try:
        watts = float(message["watts"])
    except (KeyError, TypeError, ValueError):
        raise Reject("a reading has meter, at and watts") from None
    return message if watts > params.alarm else None


def _rows(path: str, last: int) -> list[tuple[int, str, float, float]]:
    query = "SELECT id, meter, at, watts FROM reading WHERE id > ? ORDER BY id LIMIT ?"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute(query, (last, TOGETHER)).fetchall()
