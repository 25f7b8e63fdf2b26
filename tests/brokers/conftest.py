"""The `broker` fixture: a harness for each implementation. To add one, add its id and how it is made."""

import pytest

from tests.brokers.harness import Common


def make(kind: str, request: pytest.FixtureRequest) -> Common:
    """Return a new harness."""
    if kind == "sqlite":
        from tests.brokers.embedded import SqliteHarness  # noqa: PLC0415 - needs no RabbitMQ, and the others no file

        return SqliteHarness(request.getfixturevalue("tmp_path"))
    from tests.brokers.rabbit import RabbitHarness  # noqa: PLC0415 - as above

    return RabbitHarness(request.getfixturevalue("rabbit"), kind.removeprefix("rabbitmq-"))


RABBITMQ = [pytest.param(f"rabbitmq-{kind}", marks=pytest.mark.rabbitmq) for kind in ("classic", "quorum")]


@pytest.fixture(params=[*RABBITMQ, "sqlite"])
def broker(request):
    """A harness for one test; closed by `contract` on the test's loop."""
    return make(request.param, request)
