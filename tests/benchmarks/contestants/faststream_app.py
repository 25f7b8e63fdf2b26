import os
from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from jobs import JOBS

IN, OUT, URL = os.environ["BENCH_IN"], os.environ["BENCH_OUT"], os.environ["BENCH_URL"]
run = JOBS[os.environ["BENCH_JOB"]]
PREFETCH = int(os.environ.get("BENCH_PREFETCH", "100"))
kw = {}
if os.environ.get("BENCH_TYPES") == "no":
    kw["apply_types"] = False
if os.environ.get("BENCH_LOGGER", "no") == "no":
    kw["logger"] = None
broker = RabbitBroker(URL, default_channel=Channel(prefetch_count=PREFETCH, publisher_confirms=True, on_return_raises=True), **kw)
app = FastStream(broker, **({"logger": None} if "logger" in kw else {}))


if os.environ["BENCH_JOB"] == "mixed":

    @broker.subscriber(RabbitQueue(IN, durable=True), ack_policy=AckPolicy.NACK_ON_ERROR)
    @broker.publisher(OUT, persist=True, mandatory=True)
    def job(body: dict) -> dict:
        return run(body)

else:

    @broker.subscriber(RabbitQueue(IN, durable=True), ack_policy=AckPolicy.NACK_ON_ERROR)
    @broker.publisher(OUT, persist=True, mandatory=True)
    async def job(body: dict) -> dict:
        return run(body)
