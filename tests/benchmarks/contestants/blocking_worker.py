import json
import multiprocessing
import os
import sys

import pika
from jobs import JOBS

IN, OUT, URL = os.environ["BENCH_IN"], os.environ["BENCH_OUT"], os.environ["BENCH_URL"]
PREFETCH = int(os.environ.get("BENCH_PREFETCH", "1"))
PROPERTIES = pika.BasicProperties(content_type="application/json", delivery_mode=2)
run = JOBS[os.environ["BENCH_JOB"]]


def answer(channel, method, _properties, body):
    result = json.dumps(run(json.loads(body)))
    channel.basic_publish("", OUT, result, PROPERTIES, mandatory=True)
    channel.basic_ack(method.delivery_tag)


def work():
    channel = pika.BlockingConnection(pika.URLParameters(URL)).channel()
    channel.queue_declare(IN, durable=True)
    channel.confirm_delivery()
    channel.basic_qos(prefetch_count=PREFETCH)
    channel.basic_consume(IN, answer)
    channel.start_consuming()


if __name__ == "__main__":
    workers = [multiprocessing.Process(target=work) for _ in range(int(sys.argv[1]))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
