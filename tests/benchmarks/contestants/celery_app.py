import os

import amqp
import pika
from celery import Celery
from celery.signals import worker_process_init
from jobs import JOBS
from kombu import Exchange, Queue
import json

IN, OUT, URL = os.environ["BENCH_IN"], os.environ["BENCH_OUT"], os.environ["BENCH_URL"]
VIA = os.environ.get("BENCH_VIA", "amqp")
run = JOBS[os.environ["BENCH_JOB"]]
app = Celery("bench", broker=URL)
app.conf.update(
    task_queues=[Queue(IN, Exchange(""), routing_key=IN, durable=True)],
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
publish = None


@worker_process_init.connect
def connect(**_):
    global publish
    p = pika.URLParameters(URL)
    if VIA == "pika":
        channel = pika.BlockingConnection(p).channel()
        channel.confirm_delivery()
        properties = pika.BasicProperties(content_type="application/json", delivery_mode=2)
        publish = lambda body: channel.basic_publish("", OUT, body, properties, mandatory=True)
    elif VIA == "amqp":
        connection = amqp.Connection(f"{p.host}:{p.port}", p.credentials.username, p.credentials.password, virtual_host=p.virtual_host, confirm_publish=True)
        connection.connect()
        channel = connection.channel()
        publish = lambda body: channel.basic_publish(amqp.Message(body, content_type="application/json", delivery_mode=2), "", OUT, mandatory=True)
    else:
        connection = app.connection_for_write(transport_options={"confirm_publish": True})
        producer = connection.Producer(auto_declare=False)
        publish = lambda body: producer.publish(body, routing_key=OUT, exchange="", content_type="application/json", content_encoding="utf-8", delivery_mode=2, mandatory=True)


@app.task(name="job")
def job(body):
    publish(json.dumps(run(body)))
