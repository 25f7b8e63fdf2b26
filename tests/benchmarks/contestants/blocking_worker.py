"""A bare worker with pika's blocking connection: the reference for latency. N workers by `blocking_worker.py N`.

Each is a process with a connection and a channel: prefetch 1, the result published persistent and mandatory, which
returns when the broker has confirmed it, then the message acked. It does nothing else, so nothing is there that could
be switched off. One message at a time makes it the least that a latency can be with this library, and says nothing
about throughput, for which it waits on the broker most of the time. The workers end with the command, whatever ends it.
"""

import ctypes
import json
import multiprocessing
import os
import signal
import sys
from typing import Any

import pika
from jobs import JOBS

URL, IN, OUT = os.environ["BENCH_URL"], os.environ["BENCH_IN"], os.environ["BENCH_OUT"]
PREFETCH = int(os.environ["BENCH_PREFETCH"])
PROPERTIES = pika.BasicProperties("application/json", delivery_mode=pika.DeliveryMode.Persistent.value)
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
run = JOBS[os.environ["BENCH_JOB"]]


def answer(channel: Any, method: Any, _properties: Any, body: bytes) -> None:
    """Publish the result, which returns when the broker has confirmed it, and ack the message then."""
    result = json.dumps(run(json.loads(body)))
    channel.basic_publish("", OUT, result, PROPERTIES, mandatory=True)
    channel.basic_ack(method.delivery_tag)


def work(parent: int) -> None:
    """Answer messages until the parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:  # it has ended before
        return
    channel = pika.BlockingConnection(pika.URLParameters(URL)).channel()
    channel.queue_declare(IN, durable=True)
    channel.confirm_delivery()
    channel.basic_qos(prefetch_count=PREFETCH)
    channel.basic_consume(IN, answer)
    channel.start_consuming()


if __name__ == "__main__":
    workers = [multiprocessing.Process(target=work, args=(os.getpid(),)) for _ in range(int(sys.argv[1]))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
