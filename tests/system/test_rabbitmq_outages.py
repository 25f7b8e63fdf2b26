"""A whole service while its broker is away, refuses it or is the wrong one: it stays, reports why, goes on."""

import json
import time
from collections import Counter

import pytest

from mqworker.brokers.rabbitmq.queues import delay_arguments
from tests.support.foreign import Client
from tests.support.ports import free_port
from tests.support.rabbitmq import Rights
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for, within
from tests.system.stage import config, settled

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq, pytest.mark.xdist_group("outages")]  # they share a node

JOBS = "import time\n\ndef handle(body):\n    time.sleep(0.02)\n    return body\n"
PERMIT = "rabbit_auth_backend_internal:set_permissions"
SECRET = "s3cret-word"  # a password that must not be told to anybody


def not_ready(service: ServiceProcess, *words: str, deadline: float = 20) -> str:
    """Wait until /readyz gives this reason; the service is alive and reports the same everywhere."""

    def told() -> str:
        status, problem = service.ask("GET", "/readyz")
        return problem["detail"] if status == 503 and all(word in problem["detail"] for word in words) else ""

    reason = wait_for(told, deadline, f"readyz to tell {words}, it tells {service.ask('GET', '/readyz')}")
    assert service.ask("GET", "/livez")[0] == 200
    assert service.stage("work")["actual"]["link"]["connected"] is False
    shown = service.cli("status")
    assert shown.returncode == 0, shown.stderr
    assert all(word in shown.stdout for word in words), shown
    return reason


@pytest.mark.long
@pytest.mark.parametrize("seconds", [5, pytest.param(20, marks=pytest.mark.release)])
def test_broker_away_under_load(node, service, seconds):
    """Broker stopped for seconds under load: the service reports why it waits, goes on by itself, and loses nothing."""
    running = service(config(node.url(), "away", "prefetch = 40"), {"jobs.py": JOBS}).start()
    with Client(node.url()) as client:
        for n in range(600):
            client.publish("away", str(n).encode(), message_id=f"id-{n}")
        wait_for(lambda: client.ready("away.out") > 100, 20, "work under way")
    node.stop()
    began = time.monotonic()
    reason = not_ready(running, "cannot be reached", f"127.0.0.1:{node.port}", "start it")
    assert "guest:guest" not in reason
    while time.monotonic() < began + seconds:
        with within(5, "three answers"):
            assert running.ask("GET", "/livez")[0] == 200
            assert running.ask("GET", "/readyz")[0] == 503
            assert running.ask("GET", "/api/v1/status")[0] == 200
        time.sleep(0.5)  # the pace of the questions
    node.start()
    running.wait_ready(60)
    with Client(node.url()) as client:
        seen = Counter(got.properties.message_id for got in client.take("away.out", 600, 60))
        settled(node, "away")
        seen.update(got.properties.message_id for got in client.rest("away.out"))
    assert sorted(seen) == sorted(f"id-{n}" for n in range(600))
    counters = running.stage("work")["actual"]["counters"]
    assert seen.total() - 600 <= 40  # whose result was ambiguous, or whose ack was lost
    assert counters["ambiguous"] <= 40
    assert counters["voided"] <= 40
    assert running.stage("work")["restarts"] == 0
    assert running.stop() == 0


def test_built_again_while_the_broker_is_frozen(node, service):
    """While the broker answers nothing, the stage is stopped, started, scaled and rebuilt in bounded time."""
    stage = "/api/v1/stages/work"
    running = service(config(node.url(), "frozen", "prefetch = 40"), {"jobs.py": JOBS}).start()
    with Client(node.url()) as client:
        for n in range(600):
            client.publish("frozen", str(n).encode(), message_id=f"id-{n}")
        wait_for(lambda: client.ready("frozen.out") > 50, 20, "work under way")
    (producer,) = running.named("mqw-producer")
    node.freeze()
    try:
        for method, path, body in (
            ("GET", "/stopworking", None),
            ("GET", "/startworking", None),
            ("GET", "/stoplistening", None),
            ("GET", "/startlistening", None),
            ("PUT", f"{stage}/consumers", {"count": 3}),
            ("POST", f"{stage}/restart", None),
            ("POST", f"{stage}/stop", None),
        ):
            with within(5, path):
                status, told = running.ask(method, path, body)
            assert status < 300, (path, told)
        wait_for(lambda: not running.named("mqw-producer"), 60, "the stage to be taken down")
        assert running.ask("POST", f"{stage}/start")[0] < 300
        wait_for(lambda: running.named("mqw-producer") not in ([], [producer]), 20, "another Producer")
        wait_for(lambda: len(running.named("mqw-consumer")) == 3, 20, "three Consumers")
        assert running.ask("GET", "/readyz")[0] == 503
    finally:
        node.thaw()
    running.wait_ready(60)
    with Client(node.url()) as client:
        seen = Counter(got.properties.message_id for got in client.take("frozen.out", 600, 60))
        settled(node, "frozen")
        seen.update(got.properties.message_id for got in client.rest("frozen.out"))
    assert sorted(seen) == sorted(f"id-{n}" for n in range(600))
    assert seen.total() - 600 <= 40
    assert running.stop() == 0


def test_broker_absent_at_boot(node, service):
    """A service that starts before its broker answers and accepts changes, and works once the broker is there."""
    node.stop()
    running = service(config(node.url(), "boot"), {"jobs.py": JOBS}).start(ready=None)
    running.event("started")
    not_ready(running, "cannot be reached", "start it")
    assert running.ask("PUT", "/api/v1/stages/work/consumers?wait=30", {"count": 1})[0] == 200
    wait_for(lambda: len(running.stage("work")["actual"]["consumers"]) == 1, 20, "one Consumer")
    node.start()
    running.wait_ready(60)
    with Client(node.url()) as client:
        client.publish("boot", b'"early"')
        (got,) = client.take("boot.out", 1, 20)
    assert got.body == b'"early"'
    assert len(running.named("mqw-consumer")) == 1
    assert running.stop() == 0


LAME = """
def handle(body):
    if body % 25 == 0:
        raise ValueError("every 25th")
    return body
"""


def test_a_queue_without_a_leader_holds_up_nothing_else(node, service):
    """A delay queue that does not answer, as a broker kill leaves a new quorum queue, delays no result."""
    with Client(node.url()) as client:
        client.channel.queue_declare("lame.retry.1s", durable=True, arguments=delay_arguments("lame", 1))
    node.kill()
    node.start()
    status = node.eval('rabbit_quorum_queue:status(<<"/">>, <<"lame.retry.1s">>)')
    if "leader" in status:
        pytest.skip("this broker brings such a queue back whole")
    stage = ("prefetch = 40", "retry = { max_attempts = 2, base = 1 }")
    settings = config(node.url(), "lame", *stage, broker=("confirm_deadline = 3",))
    running = service(settings, {"jobs.py": LAME})
    running.start()
    with Client(node.url()) as client:
        for n in range(500):
            client.publish("lame", str(n).encode(), content_type="application/json", message_id=str(n))
        results = client.take("lame.out", 480, 90)
        dead: set[int] = set()  # a retry whose answer was lost is published again, so that one may be here twice
        wanted = set(range(0, 500, 25))
        wait_for(lambda: dead.update(int(got.body) for got in client.rest("lame.dlq")) or dead == wanted, 60, "the bad")
        settled(node, "lame")
        results += client.rest("lame.out")
    assert {int(got.body) for got in results} == {n for n in range(500) if n % 25}
    assert len(results) <= 480 + 2 * 40
    assert running.stop() == 0


def test_refused_at_run_time(node, service):
    """Password changed, or virtual host gone, at run time: one clear sentence without the password, then it goes on."""
    change, all_rights = "rabbit_auth_backend_internal:change_password", Rights(".*", ".*", ".*")
    urls = []
    for user, vhost in (("locked", "/"), ("homeless", "site")):
        node.allow(user, SECRET, all_rights, vhost)
        urls.append(node.url(vhost, user, SECRET))
    locked, homeless = (service(config(url, "refused"), {"jobs.py": JOBS}).start() for url in urls)
    node.eval(f'rabbit_vhost:delete(<<"site">>, <<"test">>), {change}(<<"locked">>, <<"another">>, <<"test">>)')
    node.close_connections()  # the other one is closed already
    not_ready(locked, f"amqp://locked:***@127.0.0.1:{node.port}/", "refused the login", "correct user or password")
    not_ready(homeless, "refused the virtual host", "vhost site not found", "create it")
    node.eval(f'{change}(<<"locked">>, <<"{SECRET}">>, <<"test">>), rabbit_vhost:add(<<"site">>, <<"test">>)')
    node.eval(f'{PERMIT}(<<"homeless">>, <<"site">>, {all_rights.in_erlang()}, <<"test">>)')
    for one, url in zip((locked, homeless), urls, strict=True):
        one.wait_ready(70)
        with Client(url) as client:
            client.publish("refused", b"1")
            assert client.take("refused.out", 1, 20)[0].body == b"1"
        assert one.stage("work")["restarts"] == 0
        assert SECRET not in one.log.read_text() + json.dumps(one.ask("GET", "/api/v1/status")[1])
        assert one.stop() == 0


def test_tls_checks_the_host(node, tls, service):
    """TLS: the right host is accepted, even as second URL; a wrong host name or authority is refused with a reason."""
    right, wrong = (f"amqps://guest:guest@{host}:{node.tls_port}/%2F" for host in ("localhost", "127.0.0.1"))
    dead = f"amqp://guest:guest@127.0.0.1:{free_port()}/%2F"
    trusting = ("[broker.tls]", f'ca = "{tls}/ca.pem"')
    good = service(config([dead, right], "tls", broker=trusting), {"jobs.py": JOBS}).start(ready=None)
    named = service(config(wrong, "tls", broker=trusting), {"jobs.py": JOBS}).start(ready=None)
    foreign = service(config(right, "tls"), {"jobs.py": JOBS}).start(ready=None)
    good.wait_ready()
    for one in (named, foreign):
        one.event("started")
    not_ready(named, "certificate", "127.0.0.1", "not valid for", "broker.url")
    not_ready(foreign, "certificate", "localhost", "self-signed certificate", "broker.tls.ca")
    with Client(node.url()) as client:
        client.publish("tls", b'"safe"')
        assert client.take("tls.out", 1, 20)[0].body == b'"safe"'
    assert [one.stop() for one in (good, named, foreign)] == [0, 0, 0]
