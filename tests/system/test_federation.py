"""Messages that came by federation, and results that leave by it: two virtual hosts, RabbitMQ's own plugin."""

import json
from collections.abc import Iterator

import pytest

from tests.support.foreign import Client
from tests.support.rabbitmq import RabbitNode, Rights, available, temporary
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for
from tests.system.stage import config, settled

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

HANDLER = """
def handle(body, message):
    if body["retry"] and message.attempt == 1:
        raise ConnectionError("not yet")
    return {"n": body["n"], "attempt": message.attempt, "came by federation": "x-received-from" in message.headers}
"""
THERE, HERE = "there", "/"
HOPS = "x-received-from"


@pytest.fixture
def node(rabbit, tmp_path) -> Iterator[RabbitNode]:
    """A node with the federation plugin; `rabbit` only says whether there is RabbitMQ here."""
    assert available()
    made = temporary(tmp_path / "rabbit", plugins=("rabbitmq_federation",))
    yield made
    made.close()


def federate(node: RabbitNode, exchange: str, *, of: str, to: str) -> None:
    """Have an exchange of one virtual host receive what is published to its namesake in another, over one hop."""
    upstream = f'[{{<<"uri">>, <<"{node.url(of)}">>}}, {{<<"max-hops">>, 1}}]'
    policy = f'[{{<<"federation-upstream">>, <<"{exchange}">>}}]'
    here, name = f'<<"{to}">>', f'<<"{exchange}">>'
    node.eval(
        f'ok = rabbit_runtime_parameters:set({here}, <<"federation-upstream">>, {name}, {upstream}, none), '
        f'ok = rabbit_policy:set({here}, {name}, <<"^{exchange}$">>, {policy}, 0, <<"exchanges">>, <<"test">>)'
    )


def test_a_message_that_came_by_federation_has_a_result_that_leaves_by_it(node, service):
    """Results of federated messages, also of retried ones, are forwarded by a federated exchange."""
    everything = Rights(".*", ".*", ".*").in_erlang()
    node.eval(
        f'rabbit_vhost:add(<<"{THERE}">>, <<"test">>), '
        f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{THERE}">>, {everything}, <<"test">>)'
    )
    output = 'output = { exchange = "results", queue = "in.out", routing_key = "done" }'
    running: ServiceProcess = service(config(node.url(), "in", output, consumers=1), {"jobs.py": HANDLER})
    with Client(node.url(HERE)) as here, Client(node.url(THERE)) as there:
        for client, exchange, queue, key in (
            (there, "orders", "", ""),
            (here, "orders", "in", "new"),
            (here, "orders", "watched", "new"),
            (here, "results", "in.out", "done"),
            (there, "results", "back", "done"),
        ):
            client.channel.exchange_declare(exchange, "direct", durable=True)
            if queue:
                client.channel.queue_declare(queue, durable=True)
                client.channel.queue_bind(queue, exchange, key)
        federate(node, "orders", of=THERE, to=HERE)
        federate(node, "results", of=HERE, to=THERE)
        links = "[proplists:get_value(status, Link) || Link <- rabbit_federation_status:status()]"
        wait_for(lambda: node.eval(links).count("running") == 2, 40, "two federation links")
        running.start()
        for n, retry in enumerate((False, True)):
            there.publish_to("orders", "new", json.dumps({"n": n, "retry": retry}).encode(), message_id=str(n))
        results = {json.loads(got.body)["n"]: got for got in there.take("back", 2, 40)}
        assert json.loads(results[0].body) == {"n": 0, "attempt": 1, "came by federation": True}
        assert json.loads(results[1].body) == {"n": 1, "attempt": 2, "came by federation": False}
        for got in results.values():
            assert [hop["vhost"] for hop in got.headers[HOPS]] == [HERE]
        came = here.take("watched", 2, 20)
        assert [hop["vhost"] for hop in came[0].headers[HOPS]] == [THERE]
        # What a result would suffer that inherited the header: it is not forwarded, and what follows it is.
        here.publish_to("results", "done", b"a copy", headers=came[0].headers)
        here.publish_to("results", "done", b"new")
        assert [got.body for got in there.take("back", 1, 20)] == [b"new"]
        settled(node, "in")
        assert len(here.take("in.out", 4, 20)) == 4
        assert there.rest("back") == here.rest("in.dlq") == []
    assert running.stop() == 0
