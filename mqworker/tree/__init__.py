"""One stage's process tree: Producer, lanes, Consumers, and the ledger that decides."""
