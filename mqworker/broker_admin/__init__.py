"""The broker admin: a helper process that queries the broker for HTTP and the command line, and its client."""
