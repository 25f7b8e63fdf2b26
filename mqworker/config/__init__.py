"""How a checked `mqworker.config.model.Config` is made; `mqworker.config.load` is the entry point.

file, sources (environment, flags) → check (each key against its type) → rules (keys against each other). Also here:
schema reads the structs, lines finds places in the file, urls checks broker addresses, errors formats what is reported
to the user, docs writes docs/configuration.md.
"""
