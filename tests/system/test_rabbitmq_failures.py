"""What becomes of messages that cannot be processed or placed, on a whole service with a real RabbitMQ node."""

import json
import os
import re
import signal
import time

import pytest

from tests.support.foreign import Client, Got
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for
from tests.system.stage import config, counted, settled

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

BAD_JOB = """
from mqworker import Reject


def handle(body):
    match body["do"]:
        case "raise":
            raise KeyError("tariff")
        case "reject":
            raise Reject("no such battery")
        case "unencodable":
            return object()
        case "large":
            return "x" * 5_000
        case "drop":
            return None
    return body["do"]
"""
JSON = "application/json"
CODECS = "mqworker.jobs.codecs."


def reasons(got: Got) -> tuple[str, str, int]:
    """Return why a message is dead: reason, type, attempt."""
    words = got.headers
    return words["x-mqworker-reason"], words["x-mqworker-error-type"], words["x-mqworker-attempt"]


def test_each_kind_of_failure_has_its_dead_letter(rabbit, queue, service):
    """A message without a result is dead with the right reason and its body and properties, byte for byte."""
    stage = ("max_body = 1_000", "retry = { max_attempts = 2, base = 1 }")
    settings = config(rabbit.url(), queue, *stage, broker=("max_message_size = 2_000",))
    running: ServiceProcess = service(settings, {"jobs.py": BAD_JOB}).start()
    cases = {
        "garbage": (b'{"do": \xff\x00', JSON, ("undecodable", CODECS + "UndecodableError", 1)),
        "foreign": (b"<a/>", "text/xml; charset=klingon", ("undecodable", CODECS + "UndecodableError", 1)),
        "pickled": (b"\x80\x04N.", "application/x-python-serialize", ("error", "TypeError", 2)),  # as bytes, unloaded
        "heavy": (b'{"do": "' + b"y" * 1_500 + b'"}', JSON, ("oversized", "TooLarge", 1)),
        "raise": (b' {"do":"raise"}\n', JSON, ("error", "KeyError", 2)),
        "reject": (b'{"do": "reject"}', JSON, ("reject", "mqworker.errors.Reject", 1)),
        "unencodable": (b'{"do": "unencodable"}', JSON, ("unencodable", CODECS + "UnencodableError", 1)),
        "large": (b'{"do": "large"}', JSON, ("oversized", "TooLarge", 1)),
    }
    with Client(rabbit.url()) as client:
        for name, (body, kind, _) in cases.items():
            told = {"message_id": name, "correlation_id": f"for-{name}", "content_type": kind, "app_id": "foreign"}
            client.publish(queue, body, headers={"tenant": "t", "n": 7}, **told)
            client.publish(queue, b'{"do": "well"}', content_type=JSON)
        client.publish(queue, b'{"do": "drop"}', content_type=JSON)
        dead = client.take(f"{queue}.dlq", len(cases), 30)
        results = client.take(f"{queue}.out", len(cases), 20)
        counted(running, dead=len(cases), retried=2, result=len(cases), dropped=1)
        settled(rabbit, queue)
        assert client.rest(f"{queue}.dlq") == client.rest(f"{queue}.out") == []
    assert {got.body for got in results} == {b'"well"'}
    by_name = {got.properties.message_id: got for got in dead}
    assert sorted(by_name) == sorted(cases)
    for name, (body, kind, expected) in cases.items():
        got = by_name[name]
        assert got.body == body
        assert (got.properties.content_type, got.properties.correlation_id) == (kind, f"for-{name}")
        assert (got.properties.app_id, got.properties.delivery_mode) == ("foreign", 2)
        assert (got.headers["tenant"], got.headers["n"]) == ("t", 7)
        assert reasons(got) == expected
        assert (got.headers["x-mqworker-stage"], got.headers["x-mqworker-queue"]) == ("work", queue)
        assert got.headers["x-mqworker-message"]
        assert got.headers["x-mqworker-failed-at"].endswith("Z")
    assert by_name["reject"].headers["x-mqworker-message"] == "no such battery"
    assert 'raise KeyError("tariff")' in by_name["raise"].headers["x-mqworker-traceback"]
    assert "1,510 bytes" in by_name["heavy"].headers["x-mqworker-message"]
    assert running.stop() == 0


LARGE_JOB = """
from mqworker import Reject


def handle(body):
    if body["do"] == "reject":
        raise Reject("no such battery")
    return "x" * 50_000
"""


def test_what_is_above_the_limit_of_the_broker(rabbit, queue, service):
    """An oversized result is dead, once; an oversized dead letter is kept, reported, and placed when possible."""
    heavy = b'{"do": "reject", "x": "' + b"y" * 50_000 + b'"}'
    with Client(rabbit.url()) as client:
        client.channel.queue_declare(queue, durable=True)
        client.publish(queue, heavy, content_type=JSON, message_id="heavy")
        rabbit.limit_messages(20_000)
        try:
            running: ServiceProcess = service(config(rabbit.url(), queue), {"jobs.py": LARGE_JOB}).start()
            wait_for(lambda: "dead letters cannot be placed" in running.stage("work")["problem"], 20, "a problem")
            client.publish(queue, b'{"do": "large"}', content_type=JSON, message_id="large")
            (got,) = client.take(f"{queue}.dlq", 1, 30)
            assert (got.properties.message_id, reasons(got)) == ("large", ("oversized", "TooLarge", 1))
            assert got.body == b'{"do": "large"}'
            assert got.headers["x-mqworker-message"].startswith("the result has 50,002 bytes; ")
            assert got.headers["x-mqworker-generation"] == 1
        finally:
            rabbit.limit_messages()
    wait_for(lambda: rabbit.queue(queue)["messages_unacknowledged"] == 1, 20, "the ack of the other message")
    rabbit.close_connections()  # the limit was raised
    with Client(rabbit.url()) as client:
        (got,) = client.take(f"{queue}.dlq", 1, 30)
        assert (got.properties.message_id, got.body) == ("heavy", heavy)
        settled(rabbit, queue)
        wait_for(lambda: not running.stage("work")["problem"], 20, "no problem any more")
        assert client.rest(f"{queue}.dlq") == client.rest(f"{queue}.out") == []
    assert running.stop() == 0


def test_output_without_a_route(rabbit, queue, service):
    """Results without a route are kept, and placed once when the service has recreated what is missing: none lost."""
    output = f'output = {{ exchange = "{queue}.direct", queue = "{queue}.out", routing_key = "key" }}'
    jobs = "import time\n\ndef handle(body):\n    time.sleep(0.004)\n    return body\n"
    running: ServiceProcess = service(config(rabbit.url(), queue, output), {"jobs.py": jobs}).start()
    out = f"{queue}.out"
    with Client(rabbit.url()) as client:
        for n in range(400):
            client.publish(queue, str(n).encode())
        found = client.take(out, 300, 30)
        client.channel.queue_unbind(out, f"{queue}.direct", "key")  # under load
        for n in range(400, 1_200):
            client.publish(queue, str(n).encode())
        running.event("not_placed")
        found += client.take(out, 1_200 - len(found), 60)
        settled(rabbit, queue)
        # Under load the broker confirms, and drops, what is on its way into a queue that is deleted: so not under load.
        client.channel.queue_delete(out, if_empty=True)
        for n in range(1_200, 1_500):
            client.publish(queue, str(n).encode())
        wait_for(lambda: rabbit.queue(out), 30, "the output queue made again")
        found += client.take(out, 300, 60)
        settled(rabbit, queue)
        counters = counted(running, result=1_500)
        assert (counters["dead"], counters["ambiguous"]) == (0, 0)
        assert client.rest(out) == []
        client.channel.exchange_delete(f"{queue}.direct")
    assert sorted(int(got.body) for got in found) == list(range(1_500))
    assert [event["event"] for event in running.events()].count("not_placed") >= 2
    assert running.stop() == 0


def test_a_deleted_dead_letter_queue_loses_nothing(rabbit, queue, service):
    """Dead letters whose queue is gone are kept with their inputs, and all arrive once it exists again."""
    running: ServiceProcess = service(config(rabbit.url(), queue), {"jobs.py": BAD_JOB}).start()
    dead = f"{queue}.dlq"
    with Client(rabbit.url()) as client:
        client.channel.queue_delete(dead, if_empty=True)
        for n in range(40):
            client.publish(queue, b'{"do": "reject"}', content_type=JSON, message_id=str(n))
        wait_for(lambda: rabbit.queue(dead), 30, "the dead-letter queue made again")
        found = client.take(dead, 40, 40)
        settled(rabbit, queue)
    assert sorted(int(got.properties.message_id) for got in found) == list(range(40))
    assert dead in running.event("not_placed")["msg"]
    assert running.stop() == 0


def test_no_output_queue_holds_the_input_back(rabbit, queue, service):
    """While results cannot be placed (no queue has that routing key), half a prefetch is held and no more."""
    output = f'output = {{ exchange = "{queue}.direct", queue = "{queue}.out", routing_key = "key" }}'
    jobs = "def handle(body):\n    return body\n"
    settings = config(worker_url(rabbit), queue, output, "prefetch = 20")
    with Client(rabbit.url()) as client:
        for name in (queue, f"{queue}.dlq", f"{queue}.out"):
            client.channel.queue_declare(name, durable=True)
        client.channel.exchange_declare(f"{queue}.direct", "direct", durable=True)
        running: ServiceProcess = service(settings, {"jobs.py": jobs}).start()  # may not bind: see worker_url
        for n in range(200):
            client.publish(queue, str(n).encode())
        problem = wait_for(lambda: running.stage("work")["problem"], 20, "the reason to hold back")
        assert re.match(r"the results of \d+ messages cannot be placed", problem)
        assert "NO_ROUTE" in problem
        told = wait_for(lambda: (now := running.ask("GET", "/readyz"))[0] == 503 and now[1], 20, "the input held back")
        assert "cannot be placed" in told["detail"]
        assert rabbit.queue(queue)["messages_unacknowledged"] <= 20
        assert rabbit.queue(queue)["messages"] == 200
        client.channel.queue_bind(f"{queue}.out", f"{queue}.direct", "key")
        results = client.take(f"{queue}.out", 200, 60)
        settled(rabbit, queue)
        assert client.rest(f"{queue}.out") == []
        client.channel.exchange_delete(f"{queue}.direct")
    assert sorted(int(got.body) for got in results) == list(range(200))
    running.wait_ready(30)
    assert running.stop() == 0


def worker_url(rabbit) -> str:
    """Return the URL of a user who may read and write, but not bind or declare."""
    rabbit.eval(
        'rabbit_auth_backend_internal:add_user(<<"worker">>, <<"secret">>, <<"test">>), '
        'rabbit_auth_backend_internal:set_permissions(<<"worker">>, <<"/">>, <<"^$">>, '
        '<<"^(system[.][0-9a-f]+([.]dlq|[.]direct)?|amq[.]default)$">>, <<".*">>, <<"test">>).'
    )
    return rabbit.url(user="worker", password="secret")


FRAME_JOB = """
def deep(n):
    if n:
        deep(n - 1)
    raise ValueError("é" * 3_000)


def handle(body, message):
    if body["do"] == "raise":
        deep(40)
    if body["do"] == "once" and message.attempt == 1:
        raise ConnectionError("not yet")
    return body["do"]
"""


@pytest.mark.parametrize(
    "frame_max", [4096, *(pytest.param(size, marks=pytest.mark.release) for size in (8192, 16384))]
)
def test_a_small_header_frame_stops_nothing(rabbit, queue, service, frame_max):
    """With a small frame_max, failures with long texts and messages with long headers are retried or dead."""
    long = {f"h{n}": "x" * 1_000 for n in range(18)}
    messages = {"raise": {}, "once": {}, "well": {}, "raise-long": long, "once-long": long, "well-long": long}
    rabbit.eval("application:set_env(rabbit, frame_max, 131072)")
    try:
        with Client(rabbit.url()) as client:
            client.channel.queue_declare(queue, durable=True)
            for name, table in messages.items():
                body = json.dumps({"do": name.partition("-")[0]}).encode()
                client.publish(queue, body, message_id=name, content_type=JSON, headers=table)
            rabbit.eval(f"application:set_env(rabbit, frame_max, {frame_max})")
            stage = ("retry = { max_attempts = 2, base = 1 }",)
            running: ServiceProcess = service(config(rabbit.url(), queue, *stage), {"jobs.py": FRAME_JOB}).start()
            results = client.take(f"{queue}.out", 2, 40)
            dead = {got.properties.message_id: got for got in client.take(f"{queue}.dlq", 4, 40)}
            assert sorted(got.properties.message_id for got in results) == ["once", "well"]
            assert dead.keys() == {"raise", "raise-long", "once-long", "well-long"}
            words = dead["raise"].headers
            assert reasons(dead["raise"]) == ("error", "ValueError", 2)
            assert "in deep" in words["x-mqworker-traceback"]
            for name in ("raise-long", "once-long", "well-long"):
                words = dead[name].headers
                assert words["x-mqworker-wrapped"] is True
                assert words["x-mqworker-reason"] in ("error", "oversized")
                assert not long.keys() & words.keys()
                client.publish(f"{queue}.dlq", dead[name].body, **like(dead[name]))
            (shown, *_) = json.loads(running.cli("dlq", "list", "--json").stdout)["work"]
            letter = json.loads(running.cli("dlq", "show", shown["id"], "--json").stdout)
            assert long.items() <= letter["headers"].items()
            refused = running.cli("dlq", "replay", "--all")
            assert "fit into the broker's frame_max" in refused.stdout + refused.stderr
            assert running.stage("work")["actual"]["link"]["reconnects"] == 0
            assert running.stop() == 0
    finally:
        rabbit.eval("application:set_env(rabbit, frame_max, 131072)")


def like(got: Got) -> dict[str, object]:
    """Return the properties of a message, for another one."""
    names = ("content_type", "headers", "message_id", "correlation_id", "timestamp")
    return {name: getattr(got.properties, name) for name in names}


RETRY_JOB = """
import time

from mqworker import Retry


def handle(body, message):
    waited = time.time() - body["sent"]
    match body["do"]:
        case "later" if message.attempt == 1:
            raise Retry(after=3)
        case "parked":
            raise Retry(after=600)
        case "third" if message.attempt < 3:
            raise ConnectionError("not yet")
        case "final":
            raise ValueError("never")
        case "redelivered" if not message.redelivered:
            time.sleep(600)
    count = message.headers.get("x-delivery-count")
    return {"do": body["do"], "attempt": message.attempt, "waited": waited, "count": count}
"""


@pytest.mark.parametrize("kind", [pytest.param("classic", marks=pytest.mark.release), "quorum"])
def test_retries_wait_in_delay_queues(rabbit, queue, service, kind):
    """Retries wait at the broker as long as they should, count their attempts, and final types are not retried."""
    stage = (f'queue_type = "{kind}"', 'retry = { max_attempts = 3, base = 1, final = ["ValueError"] }')
    running: ServiceProcess = service(config(rabbit.url(), queue, *stage), {"jobs.py": RETRY_JOB}).start()
    with Client(rabbit.url()) as client:

        def send(what: str) -> None:
            client.publish(queue, json.dumps({"do": what, "sent": time.time()}).encode(), message_id=what)

        for what in ("later", "third", "final", "parked"):
            send(what)
        (final,) = client.take(f"{queue}.dlq", 1, 20)
        assert reasons(final) == ("error", "ValueError", 1)
        settled(rabbit, f"{queue}.retry.1024s", ready=1)
        settled(rabbit, queue)  # nothing is held here meanwhile
        results = {
            told["do"]: (told, got) for got in client.take(f"{queue}.out", 2, 40) if (told := json.loads(got.body))
        }
        counters = counted(running, result=2, retried=4, dead=1)
        assert counters["ambiguous"] == 0
        later, third = results["later"], results["third"]
        assert (later[0]["attempt"], later[1].headers["x-mqworker-attempt"]) == (2, 2)
        assert (third[0]["attempt"], third[1].headers["x-mqworker-attempt"]) == (3, 3)
        assert 3 <= later[0]["waited"] < 120
        assert 3 <= third[0]["waited"] < 120
        assert not {"x-death", "x-mqworker-error-type", "x-delivery-count"} & later[1].headers.keys()
        if kind == "quorum":
            delivery_counts(rabbit, queue, client, send, running)
    assert running.stop() == 0


@pytest.mark.parametrize("kind", ["classic", pytest.param("quorum", marks=pytest.mark.release)])
def test_a_message_that_once_expired_comes_back_from_its_retry(rabbit, queue, service, kind):
    """What the broker wrote when a message left the input by its time to live does not cost the message its retry."""
    stage = (f'queue_type = "{kind}"', "retry = { max_attempts = 3, base = 1 }")
    running: ServiceProcess = service(config(rabbit.url(), queue, *stage), {"jobs.py": RETRY_JOB})
    with Client(rabbit.url()) as client:
        parked = f"{queue}.parked"
        client.channel.queue_declare(parked, durable=True)
        dead_letters_to = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": parked, "x-queue-type": kind}
        client.channel.queue_declare(queue, durable=True, arguments=dead_letters_to)
        body = json.dumps({"do": "third", "sent": time.time()}).encode()
        client.publish(queue, body, message_id="third", expiration="1")
        (expired,) = client.take(parked, 1, 20)
        assert expired.headers["x-death"][0]["queue"] == queue
        running.start()
        client.publish(queue, body, message_id="third", headers=expired.headers)  # moved back by hand
        (result,) = client.take(f"{queue}.out", 1, 60)
        assert json.loads(result.body)["attempt"] == 3
        client.channel.queue_delete(parked)
    assert running.stop() == 0


def delivery_counts(rabbit, queue, client, send, running) -> None:
    """What a quorum queue counts reaches the handler."""
    send("redelivered")
    wait_for(lambda: counted(running)["received"] == 8, 20, "the message in hand")
    os.kill(running.named("mqw-producer")[0], signal.SIGKILL)
    (got,) = client.take(f"{queue}.out", 1, 40)
    assert json.loads(got.body)["count"] == 1


UNTIL_TOLD = """
import time
from pathlib import Path


def handle(body):
    while not Path(__file__).with_name("finish").exists():
        time.sleep(0.01)
    return body
"""


def test_what_the_broker_would_drop_soon_is_put_back_as_new(rabbit, queue, service):
    """A quorum queue that drops after 20 deliveries, as all do on RabbitMQ 4, loses nothing through lost links."""
    running: ServiceProcess = service(config(rabbit.url(), queue, "prefetch = 30"), {"jobs.py": UNTIL_TOLD})
    with Client(rabbit.url()) as client:
        client.channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 20})
        for n in range(30):
            client.publish(queue, str(n).encode(), message_id=f"id-{n}", headers={"site": n}, content_type=JSON)
        for _ in range(18):
            got = [wait_for(lambda: client.channel.basic_get(queue)[0], 10, "a message") for _ in range(30)]
            client.channel.basic_nack(got[-1].delivery_tag, multiple=True)
    running.start()
    seen = 0
    for _ in range(3):
        seen = wait_for(lambda old=seen: (now := counted(running)["received"]) > old + 3 and now, 20, "deliveries")
        rabbit.close_connections()
    running.write("finish", "")
    with Client(rabbit.url()) as client:
        results = client.take(f"{queue}.out", 30, 60)
        settled(rabbit, queue)
        results += client.rest(f"{queue}.out")
        assert client.ready(f"{queue}.dlq") == 0
    assert {(got.properties.message_id, got.headers["site"]) for got in results} == {(f"id-{n}", n) for n in range(30)}
    running.event("renewed")
    assert running.stop() == 0
