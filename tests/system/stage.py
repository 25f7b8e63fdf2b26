"""One stage named `work` on RabbitMQ, whose handler is `handle` in jobs.py: its configuration, and what it reports."""

from tests.support.rabbitmq import RabbitNode
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for


def config(url: str | list[str], queue: str, *lines: str, broker: tuple[str, ...] = (), consumers: int = 2) -> str:
    """Return a configuration with further lines for stage and [broker]; results go to `<queue>.out` by default."""
    urls = str(url).replace("'", '"') if isinstance(url, list) else f'"{url}"'
    output = () if any(line.startswith("output") for line in lines) else (f'output = {{ queue = "{queue}.out" }}',)
    stage = (f'input = "{queue}"', 'jobs = ["jobs:handle"]', f"consumers = {consumers}", *output, *lines)
    head = ("[service]", 'log_format = "json"', "[control]", "port = 0", "[broker]", f"url = {urls}")
    return "\n".join([*head, *broker, "[stages.work]", *stage, ""])


def counted(service: ServiceProcess, **wanted: int) -> dict[str, int]:
    """Wait until the service reports these counts (it does so once a second), and return all counts."""

    def told() -> dict[str, int] | None:
        counters = service.stage("work")["actual"]["counters"]
        return counters if wanted.items() <= counters.items() else None

    return wait_for(told, 20, f"counters {wanted}")


def settled(rabbit: RabbitNode, queue: str, ready: int = 0) -> None:
    """Wait until the broker shows this many messages in a queue and none unacked."""

    def so() -> bool:
        found = rabbit.queue(queue)
        return found is not None and (found["messages_ready"], found["messages_unacknowledged"]) == (ready, 0)

    wait_for(so, 20, f"{queue} with {ready} ready and none unacked")
