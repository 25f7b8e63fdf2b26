"""Which kind of broker a state folder belongs to, so that a missing URL is noticed.

Used once by the Service, at its start, and by `mqworker check`. Without `broker.url` a service runs on the embedded
broker. If the URL came from a variable that is missing one day, the service would start on an empty queue and look
healthy, while its messages wait at RabbitMQ. So the folder records the kind of broker, in the file `broker`.
"""

import contextlib
from pathlib import Path

from mqworker.config.load import Loaded
from mqworker.config.urls import embedded_path

RABBITMQ, EMBEDDED = "rabbitmq", "embedded"


def lost_url(loaded: Loaded) -> str:
    """Return what is wrong if RabbitMQ was used before and no broker is configured now; "" otherwise."""
    if loaded.chosen or _read(loaded.state_dir) != RABBITMQ:
        return ""
    return (
        f"broker.url is not set, and the service in {loaded.state_dir} ran on RabbitMQ before: set broker.url"
        " (check the variable or file that it comes from), or set it to sqlite:///... to use the embedded broker"
    )


def remember(loaded: Loaded) -> None:
    """Record which kind is used from now on; a folder that cannot be written is reported elsewhere."""
    kind = RABBITMQ if embedded_path(loaded.config.broker.urls[0]) is None else EMBEDDED
    if _read(loaded.state_dir) != kind:
        with contextlib.suppress(OSError):
            (loaded.state_dir / "broker").write_text(f"{kind}\n")


def _read(state_dir: Path) -> str:
    try:
        return (state_dir / "broker").read_text(errors="replace").strip()
    except OSError:
        return ""
