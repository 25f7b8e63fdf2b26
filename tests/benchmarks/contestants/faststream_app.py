"""HEAD"""

import os
from typing import Any

from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from jobs import JOBS

URL, IN, OUT = os.environ["BENCH_URL"], os.environ["BENCH_IN"], os.environ["BENCH_OUT"]
JOB, PREFETCH = os.environ["BENCH_JOB"], int(os.environ["BENCH_PREFETCH"])
run = JOBS[JOB]

channel = Channel(prefetch_count=PREFETCH, publisher_confirms=True, on_return_raises=True)
broker = RabbitBroker(URL, default_channel=channel, apply_types=False, logger=None)
app = FastStream(broker, logger=None)
subscriber = broker.subscriber(RabbitQueue(IN, durable=True), ack_policy=AckPolicy.NACK_ON_ERROR)
publisher = broker.publisher(OUT, persist=True, mandatory=True)


async def at_once(body: dict[str, Any]) -> dict[str, Any]:
    """Run on the event loop: for a job that never blocks."""
    return run(body)


subscriber(publisher(at_once if JOB == "same" else run))  # which runs in a thread
