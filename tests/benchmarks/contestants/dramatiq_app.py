"""HEAD"""

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
