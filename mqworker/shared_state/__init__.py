"""One object that all Consumers share: a process for each, in which every call of a message has its effect once."""
