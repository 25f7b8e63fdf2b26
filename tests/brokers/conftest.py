"""The `broker` fixture: a harness for each implementation. To add one, add its id and how it is made."""

import pytest

from mqworker.brokers.rabbitmq import destinations, outlet, topology
from tests.brokers.harness import Common


def make(kind: str, request: pytest.FixtureRequest) -> Common:
    """Return a new harness."""
    if kind == "sqlite":
        from tests.brokers.embedded import SqliteHarness  # noqa: PLC0415 - needs no RabbitMQ, and the others no file

        return SqliteHarness(request.getfixturevalue("tmp_path"))
    from tests.brokers.rabbit import RabbitHarness  # noqa: PLC0415 - as above

    return RabbitHarness(request.getfixturevalue("rabbit"), kind.removeprefix("rabbitmq-"))


RABBITMQ = [pytest.param(f"rabbitmq-{kind}", marks=pytest.mark.rabbitmq) for kind in ("classic", "quorum")]


@pytest.fixture(autouse=True)
def grown(request, monkeypatch):
    """Use new quorum queues at once, except where a test kills the broker (`kills_broker`).

    They are waited for only because a broker that is killed within their first second loses what they have confirmed;
    `test_what_a_queue_that_was_just_made_confirms_outlives_its_broker` shows that the wait is long enough.
    """
    if request.node.get_closest_marker("kills_broker") is None:
        for module in (destinations, outlet, topology):
            monkeypatch.setattr(module, "YOUNG", 0.0)


@pytest.fixture(params=[*RABBITMQ, "sqlite"])
def broker(request):
    """A harness for one test; closed by `contract` on the test's loop."""
    return make(request.param, request)
