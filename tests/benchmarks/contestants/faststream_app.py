"""FastStream under measurement: a subscriber with a publisher, run by `faststream run`. Runs in FastStream's workers.

Settings, at the guarantee that all contestants give (a message is acked after its result is confirmed):
`AckPolicy.NACK_ON_ERROR`, which acks after the publisher has returned; publisher confirms, its default; `persist` and
`mandatory` at the publisher; `on_return_raises`. Without `persist`, which is off by default, results are lost when the
broker restarts; without `on_return_raises`, also off by default, a message whose result has no queue is acked as if all
were well. Left out is what costs and is not needed: validation of arguments (`apply_types`), the logger, middlewares.
orjson is installed, which it then uses. `-w 2` starts a process for each worker beside the one that watches them. A
worker has as many messages under way as it prefetches, 100, all on one event loop, so that their confirms overlap. A
job that takes long runs in a thread, one at a time (prefetch 1, or 2 for the job that computes), so that there are as
many at once as there are workers.

What else was tried, as the ratio of the rates within pairs (median, and CPU time a message), 5,000 messages, on a
machine with other work on it, which makes them spread by a factor of two: prefetch 10 0.8 (329 us against 348), 30 0.8
(334), 300 0.7 (440), 1000 0.5 (494); uvloop 0.4 in one trial and 0.8 in the next (398 against 407), though its best run
was as fast as the best without: it is not installed; with `apply_types` 0.9.
"""

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
