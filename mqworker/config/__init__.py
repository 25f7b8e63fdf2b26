"""How a checked `mqworker.config.Config` comes to be; `mqworker.config.load` is the way in.

file, sources (environment, flags) → check (each key against its type) → rules (keys against each other). Beside them:
schema reads the structs, lines finds places in the file, urls knows broker addresses, errors holds what a user is told,
docs writes the page.
"""
