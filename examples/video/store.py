"""The stage `store`: the tracks of each frame as a row of `tracks.db`, beside this file.

A message may come twice, after a kill at the wrong moment. The row has camera and frame as its key, so it is written
again with the same tracks, and nothing is there twice.
"""

import json
import sqlite3
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("tracks.db")
TABLE = "CREATE TABLE IF NOT EXISTS tracks (camera TEXT, frame INTEGER, tracks TEXT, PRIMARY KEY (camera, frame))"


class Store:
    """Writes one row for each message; the message is acknowledged after the commit."""

    def setup(self) -> None:
        """Open the file, once for each Consumer."""
        self.db = sqlite3.connect(FILE, timeout=30)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute(TABLE)

    def handle(self, body: dict[str, Any]) -> None:
        """Write the tracks of a frame; there is no result."""
        row = body["camera"], body["frame"], json.dumps(body["tracks"])
        with self.db:
            self.db.execute("INSERT OR REPLACE INTO tracks VALUES (?, ?, ?)", row)

    def teardown(self) -> None:
        """Close the file."""
        self.db.close()
