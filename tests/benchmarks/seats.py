"""What several messages at once in one Consumer come to: `.venv/bin/python -m tests.benchmarks.seats --help`.

Each message waits for 50 ms, as a coroutine (64 at once) or in a thread (16 at once), in one Consumer on the embedded
broker. Told are messages a second in the middle of the run, as a part of the ideal rate, and the CPU of Producer and
Consumer for each message. The goal is 0.9 of the ideal rate.
"""

import argparse
import statistics
from pathlib import Path

from tests.support.embedded import Client, config
from tests.support.service import ServiceProcess

WAIT = 0.05  # seconds
JOBS = f"""
import asyncio, time

async def task(body):
    await asyncio.sleep({WAIT})
    return {{"n": body["n"], "at": time.monotonic()}}

def thread(body):
    time.sleep({WAIT})
    return {{"n": body["n"], "at": time.monotonic()}}
"""


def cpu(service: ServiceProcess, title: str) -> float:
    """Return the seconds of CPU that the only process of a kind has used."""
    (pid,) = service.named(title)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def measure(job: str, seats: int, turns: int) -> tuple[float, float, float]:
    """Return the part of the ideal rate, and microseconds of CPU a message in Producer and Consumer."""
    text = config(f"concurrency = {seats}", consumers=1).replace("jobs:handle", f"jobs:{job}")
    with ServiceProcess(text, {"jobs.py": JOBS}) as service:
        service.start()
        with Client(service) as client:
            client.send(4 * seats)
            client.finish()
            before = cpu(service, "mqw-producer"), cpu(service, "mqw-consumer")
            count = seats * turns
            client.send(count)
            results = client.finish(600)
            after = cpu(service, "mqw-producer"), cpu(service, "mqw-consumer")
        assert service.stop() == 0
    at = sorted(one.body["at"] for one in results)[5 * seats : -seats]
    rate = (len(at) - 1) / (at[-1] - at[0])
    return rate * WAIT / seats, *((b - a) / count * 1e6 for a, b in zip(before, after, strict=True))


def main() -> None:
    """See the module head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=100, help="of all seats, in each round")
    options = parser.parse_args()
    for job, seats in (("task", 64), ("thread", 16)):
        found = [measure(job, seats, options.turns) for _ in range(options.rounds)]
        part, producer, consumer = (statistics.median(each) for each in zip(*found, strict=True))
        print(
            f"{seats} at once ({job}): {part:.3f} of {seats / WAIT:,.0f} messages/s ({min(found)[0]:.3f} to"
            f" {max(found)[0]:.3f}); CPU a message: Producer {producer:.0f} us, Consumer {consumer:.0f} us"
        )


if __name__ == "__main__":
    main()
