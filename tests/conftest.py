"""Fixtures of all tests: the session's own RabbitMQ node."""

import os
from collections.abc import Iterator

import pytest

from tests.support import rabbitmq


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory) -> Iterator[rabbitmq.RabbitNode]:
    """A RabbitMQ node for this session; skipped where there is no server, except in CI."""
    if not rabbitmq.available():
        if os.environ.get("CI"):
            pytest.fail("CI needs rabbitmq-server")
        pytest.skip("rabbitmq-server is not installed")
    node = rabbitmq.temporary(tmp_path_factory.mktemp("rabbit"))
    yield node
    node.close()
