"""AMQP as bytes: properties, header tables, our header names, and the fingerprint that identifies a message."""
