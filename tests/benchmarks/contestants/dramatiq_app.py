"""Dramatiq under measurement: one actor, run by `dramatiq`, whose result goes to a queue. Runs in Dramatiq's workers.

Settings, at the guarantee that all contestants give (a message is acked after its result is confirmed): the actor
publishes its result itself, persistent and mandatory, by the channel that the broker keeps for each thread, which
`confirm_delivery` (off by default) has wait for the broker's confirm; Dramatiq acks when the actor has returned.

Left out is what costs and is not needed: every middleware but Retries, without which a message that fails goes to the
dead-letter queue at once. 12 threads in each process wait for their confirms beside each other; the process prefetches
48 messages (`dramatiq_queue_prefetch`; by default twice the threads). For the jobs that take long there is one thread,
so that there are as many at once as there are workers; it prefetches nothing beyond the message that it works on, or 4
for the job that computes.

What else was tried, as the ratio of the rates within pairs (median, and CPU time a message), 5,000 messages, on a
machine with other work on it, which makes them spread by a factor of up to two. With every default but the threads, of
8 threads (246 us): 1 0.3 (636 us), 2 0.6, 4 0.9, 12 0.9, 16 0.9; `dramatiq-gevent` with 8 or 64 greenlets 0.7. 8
threads that prefetch 32 and Retries alone 1.4 of the defaults (219 us against 257). Of these, with Retries alone: 12
threads that prefetch 48 1.3 and 1.4 in two trials (211 us against 220), 8 and 64 1.2 and 1.1, 8 and 16 1.0, 8 and 128
0.8, 6 and 32 0.95, 12 and 96 0.8, 16 and 64 0.9.
"""

import json
import os
from typing import Any

import dramatiq
import pika
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import Retries
from jobs import JOBS

URL, IN, OUT = os.environ["BENCH_URL"], os.environ["BENCH_IN"], os.environ["BENCH_OUT"]
PROPERTIES = pika.BasicProperties("application/json", delivery_mode=pika.DeliveryMode.Persistent.value)
run = JOBS[os.environ["BENCH_JOB"]]

broker = RabbitmqBroker(url=URL, confirm_delivery=True, middleware=[Retries()])
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=IN, actor_name="job")
def job(body: dict[str, Any]) -> None:
    """Publish the result, which returns when the broker has confirmed it; Dramatiq acks the message after that."""
    broker.channel.basic_publish("", OUT, json.dumps(run(body)), PROPERTIES, mandatory=True)
