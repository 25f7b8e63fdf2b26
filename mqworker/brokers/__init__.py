"""Brokers: `base` says what one is, `rabbitmq` and `sqlite` are two; the URL chooses.

Runs in the Producer (links) and in the desk. Imports the chosen implementation when it is asked for, so that a verb
which needs no broker, or only the embedded one, never pays for pika.
"""

from mqworker.brokers.base import Admin, Link, Sink, Topology
from mqworker.config.model import BrokerConfig
from mqworker.config.urls import embedded_path


def open_link(config: BrokerConfig, topology: Topology, sink: Sink, name: str) -> Link:
    """Return a stage's Link, not yet started; made on the running loop. ValueError for an unknown URL scheme."""
    path = embedded_path(config.urls[0])
    if path is not None:
        from mqworker.brokers.sqlite import SqliteLink  # noqa: PLC0415 - see the module's head

        return SqliteLink(path, topology, sink, name=name)
    from mqworker.brokers.rabbitmq import RabbitLink  # noqa: PLC0415 - as above

    return RabbitLink(config, topology, sink, name=name)


def open_admin(config: BrokerConfig) -> Admin:
    """Return a Admin that connects on demand. ValueError for an unknown URL scheme."""
    path = embedded_path(config.urls[0])
    if path is not None:
        from mqworker.brokers.sqlite import SqliteAdmin  # noqa: PLC0415 - as above

        return SqliteAdmin(path)
    from mqworker.brokers.rabbitmq import RabbitAdmin  # noqa: PLC0415 - as above

    return RabbitAdmin(config)
