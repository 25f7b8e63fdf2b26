"""The embedded broker: queues in one SQLite file, for first steps, for one machine, and for tests without a server.

`SqliteLink` runs in a stage's Producer, `SqliteAdmin` in the broker admin; any number of processes may share one file.
What is confirmed has been synced to disk.

    file.py     the file: opening it, transactions, what its errors mean
    store.py    queues, routes, messages, leases, delays, as functions on the open file
    sole_consumer.py  who else consumes the input of an ordered stage
    owners.py   which process holds a lease, and whether it is alive
    session.py  a Link's state while the file is open: one transaction for many commands
    writer.py   the thread that runs sessions, and what happens when the file fails
    link.py     the Link: sends commands to that thread
    outlet.py   the Outlet of a source, with a thread of its own
    admin.py    the Admin
"""
