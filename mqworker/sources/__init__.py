"""Sources: a process that runs a generator or a scheduled function of the user, and publishes what it yields."""
