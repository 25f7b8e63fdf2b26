"""From a message's body to a result by the user's code, in one process (Consumer, code check, or a user's test)."""
