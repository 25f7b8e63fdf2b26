"""Writes readings of meters into the table that the source reads: `python generate.py 1000`."""

import random
import sqlite3
import sys
import time
from contextlib import closing

TABLE = """CREATE TABLE IF NOT EXISTS reading
    (id INTEGER PRIMARY KEY AUTOINCREMENT, meter TEXT NOT NULL, at REAL NOT NULL, watts REAL NOT NULL)"""


def write(path: str, count: int, seed: int = 1, meters: int = 50) -> None:
    """Append readings of random meters; the same seed gives the same ones, but for the time."""
    chance = random.Random(seed)  # noqa: S311 - test data, not a secret
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(TABLE)
        rows = [
            (f"m{chance.randrange(meters):03}", time.time(), round(chance.expovariate(1 / 800), 1))
            for _ in range(count)
        ]
        database.executemany("INSERT INTO reading (meter, at, watts) VALUES (?, ?, ?)", rows)


if __name__ == "__main__":
    write("meters.db", int(sys.argv[1]) if len(sys.argv) > 1 else 100, seed=int(time.time()))
