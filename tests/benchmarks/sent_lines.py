"""How fast `mqworker send` sends the lines of a file: `.venv/bin/python -m tests.benchmarks.sent_lines --help`.

Each line is confirmed by the broker: the embedded one, then a private RabbitMQ node with both types of queue. The stage
is paused, so nothing else runs. Told are lines a second from the start of the command to its end; the goal is 10,000.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.rabbitmq import RabbitNode
from tests.support.service import ServiceProcess

CONFIG = """\
[control]
port = 0
{broker}
[stages.work]
input = "{queue}"
jobs = ["jobs:handle"]
queue_type = "{queue_type}"
"""
JOBS = {"jobs.py": "def handle(body):\n    return None\n"}


def rates(broker: str, queue_type: str, lines: bytes, rounds: int) -> list[float]:
    """Return the lines a second of each round."""
    found, count, queue = [], lines.count(b"\n"), f"lines.{queue_type}"
    with ServiceProcess(CONFIG.format(broker=broker, queue=queue, queue_type=queue_type), JOBS) as service:
        service.start()
        assert service.cli("pause").returncode == 0
        for _ in range(rounds):
            began = time.monotonic()
            done = service.cli("send", input=lines)
            found.append(count / (time.monotonic() - began))
            assert done.returncode == 0, done.stderr
            assert f"{count} sent" in done.stderr, done.stderr
            _, told = service.ask("POST", f"/api/v1/queues/{queue}/purge")
            assert told == {"purged": count}, told
        assert service.stop() == 0
    return found


def main() -> None:
    """See the module head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    lines = b"".join(json.dumps({"id": number, "pad": "x" * 150}).encode() + b"\n" for number in range(asked.lines))
    with TemporaryDirectory(prefix="mqw-lines-") as folder:
        node = RabbitNode(Path(folder))
        node.start()
        try:
            broker = f'[broker]\nurl = "{node.url()}"'
            for name, url, queue_type in (
                ("embedded broker", "", "classic"),
                ("RabbitMQ, classic", broker, "classic"),
                ("RabbitMQ, quorum", broker, "quorum"),
            ):
                found = rates(url, queue_type, lines, asked.rounds)
                print(f"{name}: {statistics.median(found):,.0f} lines/s ({min(found):,.0f} to {max(found):,.0f})")
        finally:
            node.stop()


if __name__ == "__main__":
    main()
