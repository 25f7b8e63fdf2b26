"""HEAD"""

import json
import os
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp
from celery import Celery
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
if os.environ.get("BENCH_FCFS"):
    from celery.concurrency import asynpool

    asynpool.SCHED_STRATEGIES[None] = asynpool.SCHED_STRATEGIES["default"] = asynpool.SCHED_STRATEGY_FCFS


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
    outlet().basic_publish(result, "", OUT, mandatory=True)
