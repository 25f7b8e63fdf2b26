"""The Flask thread of the Service: control API, health, metrics."""
