"""Objects that all Consumers share: a process for each object, in which every call of a message takes effect once."""
