"""Turns a message's body into a result with the user's code, in one process (Consumer, code check, user's test)."""
