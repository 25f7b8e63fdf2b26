import json
import os

import dramatiq
import pika
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import Retries
from jobs import JOBS

IN, OUT, URL = os.environ["BENCH_IN"], os.environ["BENCH_OUT"], os.environ["BENCH_URL"]
run = JOBS[os.environ["BENCH_JOB"]]
MIDDLEWARE = {"default": None, "none": [], "retries": [Retries()]}[os.environ.get("BENCH_MIDDLEWARE", "default")]
broker = RabbitmqBroker(url=URL, confirm_delivery=True, middleware=MIDDLEWARE)
dramatiq.set_broker(broker)
PROPERTIES = pika.BasicProperties(content_type="application/json", delivery_mode=2)


@dramatiq.actor(queue_name=IN, actor_name="job", **({} if MIDDLEWARE == [] else {"max_retries": None}))
def job(body):
    broker.channel.basic_publish("", OUT, json.dumps(run(body)), PROPERTIES, mandatory=True)
