"""A RabbitMQ cluster of the tests' own nodes, on loopback: one port mapper and one cookie for all of them.

Runs in the test process, like `rabbitmq`. The nodes have one scheduler each and no plugins, so that three of them cost
little. The second and the third join the first when they start for the first time; what is a minority pauses.
"""

import secrets
from pathlib import Path
from typing import Self

from tests.support.ports import free_port
from tests.support.rabbitmq import RabbitNode
from tests.support.waiting import wait_for

CONFIG = (
    "cluster_partition_handling = pause_minority",
    "cluster_formation.discovery_retry_limit = 3",
    "cluster_formation.discovery_retry_interval = 100",
)
JOINS = (
    "cluster_formation.peer_discovery_backend = classic_config",
    "cluster_formation.classic_config.nodes.1 = {first}",
)
TICKTIME = 8  # seconds; within a quarter more or less of it, a node that does not answer counts as down
# After how long RabbitMQ moves a message again that it could not move out of a delay queue: 180 s by default, which the
# test would have to wait for (docs/guarantees.md).
ADVANCED = "{dead_letter_worker_publisher_confirm_timeout, 10000}"
LOOKUP = '{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{name}">>))'


class RabbitCluster:
    """Nodes that have formed a cluster; each may be killed, stopped and started by itself."""

    def __init__(self, folder: Path, count: int = 3, advanced: str = ADVANCED) -> None:
        """Start them; returns when all of them run in one cluster."""
        self.nodes: list[RabbitNode] = []
        epmd, cookie = free_port(), secrets.token_hex(10)
        try:
            for number in range(count):
                joins = JOINS if number else ()
                below = folder / f"node{number + 1}"
                below.mkdir(parents=True)
                (below / "ports").write_text(f"{epmd} {free_port()}")
                (below / ".erlang.cookie").write_text(cookie)
                (below / ".erlang.cookie").chmod(0o400)
                lines = (*CONFIG, *(line.format(first=self.nodes[0].name) for line in joins))
                erlang = f"+S 1:1 -kernel net_ticktime {TICKTIME}"
                self.nodes.append(RabbitNode(below, config=lines, advanced=advanced, erl_args=erlang))
            first, *others = self.nodes
            first.start()
            for node in others:
                node.spawn()
            for node in others:
                wait_for(node.running, 60, f"{node.name} to run")
            wait_for(lambda: self.together(first) == count, 60, f"{count} nodes in one cluster")
        except BaseException:
            self.close()
            raise

    def together(self, node: RabbitNode) -> int:
        """Return how many nodes run, as one of them sees it."""
        return int(node.eval("rabbit_nodes:running_count()"))

    def leader(self, queue: str, asked: RabbitNode) -> RabbitNode:
        """Return the node of a quorum queue's leader, as one of them knows it."""
        found = asked.eval(f"{LOOKUP.format(name=queue)}, amqqueue:qnode(Queue)").strip("'")
        return next(node for node in self.nodes if node.name == found)

    def members(self, queue: str, asked: RabbitNode) -> int:
        """Return on how many nodes a quorum queue is."""
        return int(asked.eval(f"{LOOKUP.format(name=queue)}, length(maps:get(nodes, amqqueue:get_type_state(Queue)))"))

    def lead(self, queue: str, node: RabbitNode) -> None:
        """Make a node the leader of a quorum queue."""
        node.eval(f"{LOOKUP.format(name=queue)}, rabbit_quorum_queue:transfer_leadership(Queue, node())")
        wait_for(lambda: self.leader(queue, node) is node, 20, f"{node.name} to lead {queue}")

    def close(self) -> None:
        """Kill them all, and their port mapper."""
        for node in reversed(self.nodes):
            node.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
