"""Between our own processes: records, frames, the life of a child, its output, logs, restart budgets."""
