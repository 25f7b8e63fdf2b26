"""`scripts/broker start|stop|status`: the private development node, which outlives the command.

Runs in the foreground of a shell; prints the AMQP URL on stdout and messages on stderr. Exit codes: 0 running (or
stopped as asked), 1 not running.
"""

import sys
from pathlib import Path

from tests.support.rabbitmq import RabbitNode, available

PORT = 5673


def main(verb: str) -> int:
    """Execute the command line."""
    if not available():
        print("rabbitmq-server is not installed: apt-get install rabbitmq-server", file=sys.stderr)
        return 1
    folder = Path.cwd() / ".rabbitmq"
    if verb != "start" and not folder.exists():
        print("not running", file=sys.stderr)
        return int(verb == "status")
    node = RabbitNode(folder, port=PORT, detached=True)
    if verb == "start" and not node.running():
        node.start()
    if verb == "stop":
        node.stop()
        node.close()
        print("stopped", file=sys.stderr)
        return 0
    if not node.running():
        print("not running", file=sys.stderr)
        return 1
    print(node.url())
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in {"start", "stop", "status"}:
        sys.exit("usage: scripts/broker start|stop|status")
    sys.exit(main(sys.argv[1]))
