"""A whole service on a real RabbitMQ node: foreign messages, long work, backpressure, shared queues."""

import json
import time
from pathlib import Path

import pytest

from tests.support.foreign import Client, publish_lines
from tests.support.service import ServiceProcess
from tests.support.waiting import Patience, wait_for
from tests.system.stage import config, counted, settled

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]


LIST = "rabbit_binding:list_for_source"


def unacked(rabbit, queue: str) -> int:
    """Return how many messages of a queue the broker has delivered and not seen acked."""
    return rabbit.queue(queue)["messages_unacknowledged"]


@pytest.mark.parametrize("many", [4_000, pytest.param(20_000, marks=pytest.mark.release)])
def test_thousands_of_foreign_messages(rabbit, queue, service, many):
    """Persistent messages of foreign clients: each result once, correct, persistent, where it belongs."""
    output = f'output = {{ exchange = "{queue}.direct", queue = "{queue}.out", routing_key = "typc-fpd-tysh" }}'
    jobs = "def handle(body):\n    return {'n': body['n'], 'square': body['n'] ** 2}\n"
    running: ServiceProcess = service(config(rabbit.url(), queue, output), {"jobs.py": jobs}).start()
    publish_lines(rabbit.url(), queue, [json.dumps({"n": n}) for n in range(many - 1_000)])
    with Client(rabbit.url()) as client:
        for n in range(many - 1_000, many):
            told = {"content_type": "application/json", "message_id": f"id-{n}", "correlation_id": f"for-{n}"}
            client.publish(queue, json.dumps({"n": n}).encode(), headers={"tenant": "t"}, **told)
        wait_for(lambda: client.ready(f"{queue}.out") >= many, 120, "all results")
    settled(rabbit, queue)
    assert counted(running, result=many)["ambiguous"] == 0
    assert running.stop() == 0
    source = f'rabbit_misc:r(<<"/">>, exchange, <<"{queue}.direct">>)'
    bindings = f"[{{Key, Queue}} || {{binding, _, Key, {{resource, _, _, Queue}}, _}} <- {LIST}({source})]"
    assert rabbit.eval(f'{bindings} =:= [{{<<"typc-fpd-tysh">>, <<"{queue}.out">>}}]') == "true"
    rabbit.eval("rabbit:stop()")
    rabbit.eval("rabbit:start()")
    with Client(rabbit.url()) as client:
        client.channel.exchange_declare(f"{queue}.direct", passive=True)
        client.channel.exchange_declare(f"{queue}.direct", "direct", durable=True)  # raises if it is another kind
        results = client.take(f"{queue}.out", many, 60)
        assert client.rest(f"{queue}.out") == []
        client.channel.exchange_delete(f"{queue}.direct")
    by_number = {json.loads(got.body)["n"]: got for got in results}
    assert sorted(by_number) == list(range(many))
    for n, got in by_number.items():
        assert json.loads(got.body)["square"] == n**2
        assert (got.properties.delivery_mode, got.properties.content_type) == (2, "application/json")
        assert got.headers["x-mqworker-attempt"] == 1
        if n >= many - 1_000:
            assert (got.properties.message_id, got.properties.correlation_id) == (f"id-{n}", f"for-{n}")
            assert got.headers["tenant"] == "t"
    assert len({got.properties.message_id for got in results}) == many  # also where the publisher gave none


def test_an_auto_delete_input_gives_all_its_messages(rabbit, queue, service):
    """Start, scale, pause and resume lose nothing of an auto-delete queue; stopping says what it destroys first."""
    jobs = "import time\n\ndef handle(body):\n    time.sleep(0.003)\n    return body\n"
    running: ServiceProcess = service(config(rabbit.url(), queue), {"jobs.py": jobs})
    with Client(rabbit.url()) as client:
        client.channel.queue_declare(queue, durable=True, auto_delete=True)
        for n in range(1_200):
            client.publish(queue, b"%d" % n, content_type="application/json")
        running.start()
        for verb in (("scale", "4"), ("pause",), ("resume",), ("scale", "0"), ("scale", "1")):
            assert running.cli(*verb).returncode == 0, verb
        results = client.take(f"{queue}.out", 1_200, 120)
        assert sorted(int(got.body) for got in results) == list(range(1_200))
        for verb in ("stop", "drain"):
            refused = running.cli(verb)
            assert refused.returncode != 0
            assert "is auto-delete" in refused.stderr
        client.publish(queue, b"1", content_type="application/json")
        client.take(f"{queue}.out", 1, 20)
        assert running.cli("stop", "--force").returncode == 0
        assert rabbit.queue(queue) is None
        client.channel.queue_declare(queue, durable=True, auto_delete=True)
        assert running.cli("start").returncode == 0
        client.publish(queue, b"2", content_type="application/json")
        client.take(f"{queue}.out", 1, 20)
        assert running.stop() == 0  # TERM obeys, and the log says what goes
        assert "is auto-delete" in running.event("destroys")["msg"]
        assert rabbit.queue(queue) is None


def test_a_quorum_queue_keeps_its_order_while_the_stage_learns_its_pace(rabbit, queue, service):
    """The prefetch of the first moment stays, also when it scales: one Consumer gives 20,000 results in their order."""
    with Client(rabbit.url()) as client:
        client.channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        client.publish_all(queue, (b"%d" % n for n in range(20_000)))
    jobs = "def handle(body):\n    return body\n"
    running: ServiceProcess = service(config(rabbit.url(), queue, consumers=1), {"jobs.py": jobs}).start()
    with Client(rabbit.url()) as client:
        results = client.take(f"{queue}.out", 15_000, 120)
        assert running.stage("work")["actual"]["prefetch"] == 64
        results += client.take(f"{queue}.out", 5_000, 120)
    assert [int(got.body) for got in results] == list(range(20_000))
    assert running.ask("PUT", "/api/v1/stages/work/consumers?wait=30", {"count": 2})[0] == 200
    assert running.stage("work")["actual"]["prefetch"] == 64
    settled(rabbit, queue)
    assert running.stop() == 0


LONG_JOB = """
import ctypes
import os
import time


def handle(body):
    if not body["seconds"]:
        time.sleep(0.002)
        return {"pid": os.getpid(), "n": body["n"], "sent": body["sent"]}
    began = time.monotonic()
    ctypes.PyDLL(None).sleep(body["seconds"])  # C code that never lets go of the interpreter's lock
    return {"pid": os.getpid(), "seconds": time.monotonic() - began}
"""


@pytest.mark.long
@pytest.mark.parametrize("heartbeat", [4, pytest.param(10, marks=pytest.mark.release)])
def test_long_native_work_beside_short(rabbit, queue, service, heartbeat):
    """Native code holds the interpreter's lock for four heartbeats: they go on, and nothing waits behind it."""
    seconds = 4 * heartbeat
    settings = config(rabbit.url(), queue, "prefetch = 50", broker=(f"heartbeat = {heartbeat}",))
    running = service(settings, {"jobs.py": LONG_JOB}).start()
    logged = len(rabbit.log())
    sent, slowest = 0, 0.0
    with Client(rabbit.url()) as client:

        def short(count: int) -> None:
            nonlocal sent
            for _ in range(count):
                body = {"seconds": 0, "n": sent, "sent": time.time()}
                client.publish(queue, json.dumps(body).encode())
                sent += 1

        short(20)
        client.publish(queue, b'{"seconds": %d}' % seconds)
        short(20)
        results = []
        patience = Patience(150)
        while not any("seconds" in result for result in results):
            assert not patience.over(), "the long one is not finished"
            short(20)
            for _ in range(20):
                (got,) = client.take(f"{queue}.out", 1, 120)
                results.append(json.loads(got.body))
                if "sent" in results[-1]:
                    slowest = max(slowest, time.time() - results[-1]["sent"])
            time.sleep(0.5)  # the pace of the load
        results += [json.loads(got.body) for got in client.take(f"{queue}.out", sent + 1 - len(results), 30)]
    (long,) = [result for result in results if "seconds" in result]
    assert long["seconds"] >= seconds - 1
    assert sorted(result["n"] for result in results if "n" in result) == list(range(sent))
    assert slowest < seconds / 2  # a busy machine may need some
    assert sent >= 80  # more than what was there at first
    actual = running.stage("work")["actual"]
    assert (actual["link"]["reconnects"], actual["link"]["connected"]) == (0, True)
    assert actual["counters"]["voided"] == 0
    assert actual["stall"] < seconds / 2
    assert "missed heartbeats" not in rabbit.log()[logged:]
    assert running.stop() == 0


WAITING = 40_000


def resident(service: ServiceProcess) -> int:
    """Return the resident memory of the whole tree in bytes."""
    total = 0
    for pid in service.pids():
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
        total += int(pages) * 4096
    return total


def test_backpressure(rabbit, queue, service):
    """40,000 waiting, slow handler: unacked never above the prefetch, memory flat; on SIGTERM the rest is back."""
    jobs = "import time\n\ndef handle(body):\n    time.sleep(0.05)\n    return body['n']\n"
    pad = "x" * 500
    with Client(rabbit.url()) as client:
        client.channel.queue_declare(queue, durable=True)
    publish_lines(rabbit.url(), queue, (json.dumps({"n": n, "pad": pad}) for n in range(WAITING)))
    running = service(config(rabbit.url(), queue, "prefetch = 60"), {"jobs.py": jobs}).start()
    running.event("link")
    samples = []
    for number in range(8):
        wait_for(lambda n=number: counted(running)["result"] > 20 * (n + 1), 20, "the next results")
        samples.append((unacked(rabbit, queue), resident(running)))
    assert max(count for count, _ in samples) <= 60
    assert min(count for count, _ in samples) > 2  # it is held back by the prefetch, not by having nothing
    memory = [size for _, size in samples]
    assert max(memory) - memory[0] < 8 << 20, memory  # all of them would be over 20 MiB
    assert running.stop() == 0
    wait_for(lambda: unacked(rabbit, queue) == 0, 20, "what was in hand to be back in the queue")
    left = rabbit.queue(queue)
    with Client(rabbit.url()) as client:
        done = [json.loads(got.body) for got in client.rest(f"{queue}.out")]
    assert len(done) == len(set(done))
    assert left["messages_ready"] + len(done) == WAITING


def test_two_instances_share_a_queue(rabbit, queue, service):
    """Two services on one input queue: everything exactly once, and both worked."""
    jobs = "import time\n\ndef handle(body):\n    time.sleep(0.002)\n    return body['n']\n"
    both = [service(config(rabbit.url(), queue), {"jobs.py": jobs}) for _ in range(2)]
    for one in both:
        one.start(ready=None)
    for one in both:
        one.wait_ready()
    publish_lines(rabbit.url(), queue, [json.dumps({"n": n}) for n in range(3_000)])
    with Client(rabbit.url()) as client:
        results = [json.loads(got.body) for got in client.take(f"{queue}.out", 3_000, 60)]
        settled(rabbit, queue)
        assert client.rest(f"{queue}.out") == []
    assert sorted(results) == list(range(3_000))

    def shares() -> list[int]:
        return [one.stage("work")["actual"]["counters"]["result"] for one in both]

    wait_for(lambda: sum(shares()) == 3_000, 10, "the counts to be told")
    assert min(shares()) > 300, shares()
    assert [one.stop() for one in both] == [0, 0]
