"""The broker admin: a helper process that asks the broker for HTTP and the command line, and its client."""
