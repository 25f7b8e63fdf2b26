"""Celery under measurement: one task, run by `celery worker`, whose result goes to a queue. Runs in Celery's workers.

Settings, at the guarantee that all contestants give (a message is acked after its result is confirmed): the task
publishes its result itself, persistent and mandatory, by a connection of its process that waits for the broker's
confirm; `task_acks_late`, so that the ack comes after it; `task_reject_on_worker_lost`, without which Celery acks the
message of a worker process that was killed; a `Reject` that gives the message back when its result is refused. By
default Celery does none of this: it acks before the task runs, acks what fails, and publishes without confirms.

Left out is what costs and is not needed: result backend, events, gossip, mingle, heartbeat, remote control, rate
limits, detection of quorum queues. `--prefetch-multiplier 64` as its documentation suggests for short tasks; for the
jobs that take long it is 1.

"Celery" is one worker with the prefork pool, its default, and "Celery solo" as many workers as there are processes to
be, each with the solo pool, which runs the task in the process that consumes: no pipe between them, but no time limits,
and no heartbeat while a task runs either.

What else was tried, as the ratio of the rates within pairs (median, and CPU time a message), 3,000 messages, on a
machine with other work on it: solo 1.6 of prefork (318 us against 581); a prefetch multiplier of 16 0.8 (562 us), of
256 1.0 (533 us), of 4 0.8, unlimited 1.0; the result by a kombu producer with `confirm_publish` 0.6, by a
pika.BlockingConnection 0.7 of an amqp.Connection; handing tasks to the pool before it asks, which `-O fast` did and the
command line no longer takes, 1.05 with a spread from 0.6 to 1.5. Of solo with 64: 16 0.8, 256 0.6.
"""

import json
import os
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp
from celery import Celery
from celery.exceptions import Reject
from jobs import JOBS
from kombu import Exchange, Queue

URL, IN, OUT = os.environ["BENCH_URL"], os.environ["BENCH_IN"], os.environ["BENCH_OUT"]
run = JOBS[os.environ["BENCH_JOB"]]

app = Celery("bench", broker=URL)
app.conf.update(
    task_queues=[Queue(IN, Exchange(""), routing_key=IN)],
    task_default_queue=IN,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_disable_rate_limits=True,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    worker_detect_quorum_queues=False,
    broker_heartbeat=0,
    broker_connection_retry_on_startup=True,
)


@cache
def outlet() -> amqp.Channel:
    """Return a confirming channel of this process's own, opened by its first task."""
    url = urlsplit(URL)
    connection = amqp.Connection(
        f"{url.hostname}:{url.port}",
        url.username,
        url.password,
        virtual_host=unquote(url.path[1:]),
        confirm_publish=True,
    )
    connection.connect()
    return connection.channel()


@app.task(name="job")
def job(body: dict[str, Any]) -> None:
    """Publish the result and return when the broker has confirmed it; Celery acks the message after that."""
    result = amqp.Message(json.dumps(run(body)), content_type="application/json", delivery_mode=2)
    try:
        outlet().basic_publish(result, "", OUT, mandatory=True)
    except Exception as error:
        raise Reject(error, requeue=True) from error  # any other error has Celery ack the message
