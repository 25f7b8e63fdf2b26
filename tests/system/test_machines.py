"""Two services on two hosts share a RabbitMQ on a third: one is killed, and the cable of the other is pulled out."""

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.hosts import Network, impossible
from tests.support.load import HANDLER, Load
from tests.support.rabbitmq import RabbitNode, Rights, available, temporary
from tests.support.tls import certificates, tls_lines
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq, pytest.mark.long]

PREFETCH, HEARTBEAT, PORT = 40, 2, 5671
LEAST = 400  # messages that wait for their outcome, at any time
USER, PASSWORD, VHOST, QUEUE = "energy", "p@ss/w:rd", "plant", "energy"
RIGHTS = Rights(r"^energy(\..*)?$", r"^(amq\.default|energy(\..*)?)$", r"^energy(\..*)?$")
CONFIG = f"""
[service]
log_format = "json"

[control]
port = 0

[broker]
heartbeat = {HEARTBEAT}
tls.ca = "ca.pem"

[stages.work]
input = "{QUEUE}"
jobs = ["jobs:handle"]
output = {{ queue = "{QUEUE}.out" }}
consumers = 2
prefetch = {PREFETCH}
params = {{ seconds = 0.02 }}
"""


@pytest.fixture
def network() -> Iterator[Network]:
    """Three hosts; skipped where there can be none, except in CI."""
    if reason := impossible():
        if os.environ.get("CI"):
            pytest.fail(f"CI needs network namespaces: {reason}")
        pytest.skip(reason)
    with Network(3) as made:
        yield made


@pytest.fixture
def node(rabbit, network, tmp_path) -> Iterator[RabbitNode]:
    """A node on the first host, with TLS for the others; `rabbit` only says whether there is RabbitMQ here."""
    assert available()
    host = network.hosts[0]
    certificates(tmp_path, f"IP:{host.address}")
    made = temporary(
        tmp_path / "rabbit", config=tls_lines(tmp_path, f"{host.address}:{PORT}"), host=host, erl_args="+S 1:1"
    )
    made.allow(USER, PASSWORD, RIGHTS, VHOST)
    yield made
    made.close()


def test_a_killed_service_and_a_cut_link_cost_no_message(network, node, service, tmp_path):
    """Each message gets its outcome, from whoever is left; what comes twice was in hand at the kill or the cut."""
    url = f"amqps://{USER}:p%40ss%2Fw%3Ard@{network.hosts[0].address}:{PORT}/{VHOST}"
    files = {"jobs.py": HANDLER, "ca.pem": (tmp_path / "ca.pem").read_text(), "url": url}
    one = service(CONFIG, files, MQWORKER_BROKER__URL_FILE="url", MQWORKER_STAGES__WORK__PARAMS__HOST="one")
    two = service(CONFIG, files, MQWORKER_BROKER__URL=url, MQWORKER_STAGES__WORK__PARAMS__HOST="two")
    for running, host in ((one, network.hosts[1]), (two, network.hosts[2])):
        (running.folder / "url").chmod(0o600)
        running.command = [*host.enter, *running.command]
        running.start(ready=None)
    for running in (one, two):
        running.wait_ready()
    with node.inside():
        load = Load(node.url(VHOST), QUEUE)
    with load:
        load.until(lambda: load.came(0, "one") > 50 and load.came(0, "two") > 50, 60, "both at work", least=LEAST)

        killed = time.monotonic(), time.time()
        one.signal(signal.SIGKILL)
        print("killed:", load.when(killed[0], {"the broker gave it up": lambda: consumers(node) == 1}, least=LEAST))
        given_up = time.time()  # until then, what was left of it worked on
        one.wait(20)
        begun = time.monotonic()
        one.start(ready=None)
        print("started again:", load.when(begun, {"results": lambda: load.came(begun, "one") > 20}, least=LEAST))

        cut = time.monotonic(), time.time()
        network.cut(network.hosts[2])
        known = {
            "it knows it": lambda: not two.stage("work")["actual"]["link"]["connected"],
            "the broker gave it up": lambda: consumers(node) == 1,
        }
        print("cut off:", load.when(cut[0], known, least=LEAST))
        assert two.ask("GET", "/livez")[0] == 200

        def names_the_broker() -> bool:  # once it has tried to connect again
            status, why = two.ask("GET", "/readyz")
            assert status == 503, why
            return network.hosts[0].address in why["detail"]

        wait_for(names_the_broker, 20, "the address in the reason")
        mended = time.monotonic(), time.time()
        network.mend(network.hosts[2])
        back = {"results of new messages": lambda: load.came(mended[0], "two") > PREFETCH + 20}
        print("mended:", load.when(mended[0], back, least=LEAST))
        load.finish(60)
        wait_for(lambda: node.queue(QUEUE, VHOST)["messages"] == 0, 20, "nothing left")
    repeats, at_kill, at_cut = load.repeats(), 0, 0
    for message_id, results in repeats.items():
        if any(result.host == "one" and killed[1] - 2 < result.began < given_up for result in results):
            at_kill += 1
        else:
            assert any(result.host == "two" and cut[1] - 2 < result.began < mended[1] + 1 for result in results), (
                message_id,
                results,
            )
            at_cut += 1
    assert max(at_kill, at_cut) <= PREFETCH
    print(f"{load.sent} sent; repeats: {at_kill} by the kill, {at_cut} by the cut")
    for running in (one, two):
        assert PASSWORD not in running.log.read_text() + json.dumps(running.ask("GET", "/api/v1/status")[1])
        assert running.stop() == 0
    assert node.refusals(USER) == [], "the user has the rights that it needs"


def consumers(node: RabbitNode) -> int:
    """Return how many consumers the input has."""
    found = node.queue(QUEUE, VHOST)
    assert found is not None
    return found["consumers"]
