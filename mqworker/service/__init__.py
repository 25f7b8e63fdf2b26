"""The Service: the main process, parent of all others."""
