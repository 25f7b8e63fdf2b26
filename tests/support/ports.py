"""Ports for what a test starts: neither two test processes of the machine nor the kernel give the same one twice."""

import random
import socket

# Below the range from which the kernel takes the ports of outgoing connections and of servers on port 0: a broker that
# is stopped for a while finds its port free when it comes back.
PORTS = range(20_000, 32_000)
_held: list[socket.socket] = []


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on, and that is this process's until it ends."""
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        hold = socket.socket(socket.AF_UNIX)
        try:
            hold.bind(f"\0mqworker-test-port-{port}")  # an abstract name: it ends with the process
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            hold.close()
        else:
            _held.append(hold)
            return port
    raise RuntimeError(f"no port of {PORTS} is free")
