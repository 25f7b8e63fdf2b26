"""A whole service on a cluster of three RabbitMQ nodes, of which one is killed under load."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.cluster import RabbitCluster
from tests.support.load import HANDLER, Load
from tests.support.rabbitmq import RabbitNode, available
from tests.support.service import ServiceProcess
from tests.system.stage import config, settled

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq, pytest.mark.long, pytest.mark.release]

PREFETCH = 60
LEAST = 100  # messages that wait for their outcome, at any time
SOURCE = """
import time
from pathlib import Path

from mqworker import Item


def rows(position):
    n = position or 0
    while not Path(__file__).with_name("enough").exists():
        n += 1
        yield Item({"n": 0}, position=n)
        time.sleep(0.1)
    Path(__file__).with_name("last").write_text(str(n))
"""
CLASSIC = """
[stages.classic]
input = "classic"
jobs = ["jobs:handle"]
consumers = 1
params = { host = "here", seconds = 0.0 }
"""
SOURCES = '[sources.rows]\njob = "rows:rows"\ninto = "work"\n'
QUEUES = ("in", "in.out", "in.dlq", "in.retry.1s", "in.source.rows")
AHEAD = 1000  # items of a source that may come again after a death


@pytest.fixture
def cluster(rabbit, tmp_path) -> Iterator[RabbitCluster]:
    """Three nodes; `rabbit` only says whether there is RabbitMQ here."""
    assert available()
    with RabbitCluster(tmp_path) as made:
        yield made
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_a_node_of_the_cluster_may_die_at_any_time(cluster, service):
    """A node dies that leads the queues and has our connections, and one that only leads: nothing is lost.

    What comes twice was in hand, or on its way, at that moment. The source and its lock move as well.
    """
    first, _, third = cluster.nodes
    running: ServiceProcess = service(
        config(
            [node.url() for node in cluster.nodes],
            "in",
            'queue_type = "quorum"',
            f"prefetch = {PREFETCH}",
            'params = { host = "here", seconds = 0.03 }',
        )
        + CLASSIC
        + SOURCES,
        {"jobs.py": HANDLER, "rows.py": SOURCE},
    ).start()
    with Load(third.url(), "in") as load:
        load.until(lambda: load.came(0) > 100 and "7" in load.results, 60, "the work to begin", least=LEAST)
        assert {cluster.members(name, third) for name in QUEUES} == {3}
        assert cluster.leader("in", third) is first

        killed = time.monotonic(), time.time()
        first.kill()
        print("killed, with our connections:", follow(running, load, cluster, first, killed[0], reconnects=2))
        away = "queue 'classic' in vhost '/' is down or inaccessible"
        load.until(lambda: away in link(running, "classic")["reason"], 30, "the classic queue's reason", least=LEAST)
        back(first, cluster, third, load)
        load.until(lambda: link(running, "classic")["consuming"], 60, "the classic queue again", least=LEAST)

        cluster.lead("in", first)
        led = time.monotonic(), time.time()
        first.kill()
        print("killed, a leader alone:", follow(running, load, cluster, first, led[0], reconnects=2))
        back(first, cluster, third, load)

        running.write("enough", "")
        load.until(lambda: source(running)["state"] == "finished", 30, "the source to end")
        rows = int((running.folder / "last").read_text())
        try:
            load.finish(60)
        except AssertionError as error:
            queues = {name: third.queue(name) for name in QUEUES}
            raise AssertionError(f"{error}: {sorted(load.waiting)}; {queues}; {running.stage('work')}") from None
        load.until(lambda: set(load.results) >= {f"rows:{n}" for n in range(1, rows + 1)}, 30, "all rows")
        settled(third, "in")
        settled(third, "in.retry.1s")
    unknown = set(load.results) - {f"rows:{n}" for n in range(1, rows + 1)} - {str(n) for n in range(load.sent)}
    assert not unknown
    repeats = {message_id: min(result.began for result in results) for message_id, results in load.repeats().items()}
    of_source = {message_id for message_id in repeats if message_id.startswith("rows:")}
    by_fault = Counter[tuple[str, str]]()
    for message_id, began in repeats.items():
        late = 60 if message_id in of_source else 2  # what a source has sent twice waits in the queue first
        faults = {"killed": killed, "led": led}
        fault = next((name for name, (_, at) in faults.items() if at - 2 < began < at + late), None)
        assert fault, (message_id, load.results[message_id])
        by_fault[fault, "rows" if message_id in of_source else "sent"] += 1
    print(f"{load.sent} sent, {rows} rows; repeats: {dict(by_fault)}")
    assert all(count <= PREFETCH + (AHEAD if kind == "rows" else 0) for (_, kind), count in by_fault.items())
    assert running.stage("work")["restarts"] == 0
    assert running.stop() == 0


def follow(
    running: ServiceProcess, load: Load, cluster: RabbitCluster, away: RabbitNode, since: float, *, reconnects: int
) -> dict[str, float]:
    """Wait until everything goes on without a node; return after how many seconds each thing did.

    `reconnects`: the least number that the stage must have made in all.
    """
    sent, rows = load.sent, source(running)["items"]
    load.send(1)
    goes_on = {
        "another leader": lambda: cluster.leader("in", cluster.nodes[-1]) is not away,
        "a confirm": lambda: sent + 1 not in load.unconfirmed,
        "connected": lambda: (told := link(running))["connected"] and told["reconnects"] >= reconnects,
        "the source": lambda: (told := source(running))["state"] == "running" and told["items"] > rows + 10,
        "a result of what was sent then": lambda: str(sent) not in load.waiting,
    }
    return load.when(since, goes_on, least=LEAST)


def back(node: RabbitNode, cluster: RabbitCluster, asked: RabbitNode, load: Load) -> None:
    """Start a node again, and wait until it is in the cluster."""
    node.spawn()
    load.until(node.running, 60, "the node to run again", least=LEAST)
    load.until(lambda: cluster.together(asked) == 3, 60, "three nodes", least=LEAST)


def link(running: ServiceProcess, stage: str = "work") -> dict:
    """Return what a stage says of its connections."""
    return running.stage(stage)["actual"]["link"]


def source(running: ServiceProcess) -> dict:
    """Return what the service says of the source."""
    status, told = running.ask("GET", "/api/v1/sources/rows")
    assert status == 200, told
    return told
