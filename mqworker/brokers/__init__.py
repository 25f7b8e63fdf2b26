"""Brokers: `base` defines the interfaces, `rabbitmq` and `sqlite` implement them; the URL selects one.

Runs in the Producer (Links), in sources and in the broker admin. Imports an implementation only when it is needed, so
that a command that needs no broker, or only the embedded one, does not load pika.
"""

from mqworker.brokers.base import Admin, Link, Sink, Topology
from mqworker.brokers.outlet import Inlet, Outlet, OutletSink
from mqworker.config.model import BrokerConfig
from mqworker.config.urls import embedded_path


def load_link(config: BrokerConfig) -> None:
    """Import what `open_link` will need."""
    if embedded_path(config.urls[0]) is not None:
        import mqworker.brokers.sqlite.link  # noqa: PLC0415 - see the module's head
    else:
        import mqworker.brokers.rabbitmq.link  # noqa: F401, PLC0415 - as above


def open_link(config: BrokerConfig, topology: Topology, sink: Sink, name: str) -> Link:
    """Return a stage's Link on the running loop, not yet started; ValueError for an unknown URL scheme."""
    path = embedded_path(config.urls[0])
    if path is not None:
        from mqworker.brokers.sqlite.link import SqliteLink  # noqa: PLC0415 - see the module's head

        return SqliteLink(path, topology, sink, name=name)
    from mqworker.brokers.rabbitmq.link import RabbitLink  # noqa: PLC0415 - as above

    return RabbitLink(config, topology, sink, name=name)


def open_admin(config: BrokerConfig) -> Admin:
    """Return an Admin that connects on demand; ValueError for an unknown URL scheme."""
    path = embedded_path(config.urls[0])
    if path is not None:
        from mqworker.brokers.sqlite.admin import SqliteAdmin  # noqa: PLC0415 - as above

        return SqliteAdmin(path)
    from mqworker.brokers.rabbitmq.admin import RabbitAdmin  # noqa: PLC0415 - as above

    return RabbitAdmin(config)


def open_outlet(config: BrokerConfig, inlet: Inlet, sink: OutletSink, name: str) -> Outlet:
    """Return a source's Outlet on the running loop, not yet started; ValueError for an unknown URL scheme."""
    path = embedded_path(config.urls[0])
    if path is not None:
        from mqworker.brokers.sqlite.outlet import SqliteOutlet  # noqa: PLC0415 - as above

        return SqliteOutlet(path, inlet, sink, name=name)
    from mqworker.brokers.rabbitmq.outlet import RabbitOutlet  # noqa: PLC0415 - as above

    return RabbitOutlet(config, inlet, sink, name=name)
