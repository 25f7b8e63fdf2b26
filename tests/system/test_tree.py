"""Who shares what inside a running tree: descriptors, threads, locks."""

import ast
import itertools
from pathlib import Path

import pytest

import mqworker
from tests.support.embedded import HANDLER, Client
from tests.support.embedded import config as embedded
from tests.support.foreign import Client as Foreign
from tests.support.waiting import wait_for
from tests.system.stage import config, settled

pytestmark = pytest.mark.system


def pipes(pid: int) -> set[str]:
    """Return the pipes and sockets that a process has open."""
    links = (str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir())
    return {link for link in links if link.startswith(("pipe:", "socket:"))}


def test_consumers_have_nothing_of_each_other(service):
    """No Consumer, even of the second generation, holds an end of another one's pipes: a death shows at once."""
    running = service(embedded(consumers=3), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        for round_ in range(2):
            client.send(20)
            client.finish()
            consumers = wait_for(lambda: len(found := running.named("mqw-consumer")) == 3 and found, 20, "3 Consumers")
            both = [pipes(one) & pipes(other) for one, other in itertools.combinations(consumers, 2)]
            # The one that is left is multiprocessing's: all of a tree write to one tracker of resources.
            assert len(set().union(*both)) <= 1, both
            if not round_:
                assert running.ask("POST", "/api/v1/stages/work/restart?wait=30")[0] == 200
    assert running.stop() == 0


def test_nothing_waits_for_a_lock_of_another_process():
    """Multiprocessing's locks, events and managers hang when their holder dies: only lanes have a queue."""
    shared = {"Lock", "RLock", "Event", "Condition", "Barrier", "Semaphore", "BoundedSemaphore", "Manager", "Queue"}
    shared |= {"Value", "Array", "SimpleQueue", "JoinableQueue", "Pool"}
    found = {
        (path.name, node.attr)
        for path in Path(mqworker.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in shared
        and isinstance(node.value, ast.Name)
        and node.value.id in {"multiprocessing", "SPAWN", "mp"}
    }
    assert found == {("lane_queue.py", "JoinableQueue")}


@pytest.mark.rabbitmq
def test_one_thread_has_the_connections(rabbit, queue, service):
    """asyncio's debug mode, which refuses every call into a loop from another thread, finds nothing under load."""
    jobs = {"jobs.py": "def handle(body):\n    return body\n"}
    running = service(config(rabbit.url(), queue), jobs, PYTHONASYNCIODEBUG="1").start()
    with Foreign(rabbit.url()) as client:
        for n in range(500):
            client.publish(queue, str(n).encode())
            if n % 100 == 50:
                assert running.ask("PUT", "/api/v1/stages/work/consumers", {"count": 1 + n // 100})[0] < 300
                assert running.ask("GET", "/api/v1/queues")[0] == 200
        assert len(client.take(f"{queue}.out", 500, 30)) == 500
        settled(rabbit, queue)
    assert "Non-thread-safe" not in running.log.read_text()
    assert running.stop() == 0
