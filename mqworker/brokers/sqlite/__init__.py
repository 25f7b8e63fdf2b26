"""The embedded broker: queues in one SQLite file, for trying mqworker, for one machine, and for tests without a server.

`SqliteLink` runs in a stage's Producer, `SqliteAdmin` in the desk; any number of processes may share one file. Whatever
was confirmed has been synced to the disk.

    file.py     the file: opening, transactions, what its errors mean
    store.py    queues, routes, messages, leases, delays, as functions on the open file
    owners.py   which process holds a lease, and whether it lives
    session.py  a Link's state while the file is open: one transaction for many commands
    writer.py   the thread that does so, and what it does when the file fails
    link.py     the Link: commands to that thread
    desk.py     the Desk
"""

from mqworker.brokers.sqlite.admin import SqliteAdmin
from mqworker.brokers.sqlite.link import SqliteLink

__all__ = ["SqliteAdmin", "SqliteLink"]
