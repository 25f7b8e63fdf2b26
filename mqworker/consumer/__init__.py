"""The Consumer: the process that runs the user's jobs, and what it shares with its Producer."""
