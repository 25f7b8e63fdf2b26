"""Makes a checked `mqworker.config.model.Config`; `mqworker.config.load` is the entry point.

file, sources (environment, flags) → check (each key against its type) → rules (keys against each other). Also here:
schema reads the structs, lines finds line numbers in the file, urls checks broker addresses, errors formats what is
reported to the user, docs writes docs/configuration.md.
"""
