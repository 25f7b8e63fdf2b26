"""Fixtures of whole-service tests: services that leave nothing behind."""

import contextlib
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.foreign import Client
from tests.support.ports import free_port
from tests.support.rabbitmq import RabbitNode, temporary
from tests.support.service import ServiceProcess, gone
from tests.support.tls import certificates, tls_lines


@pytest.fixture
def queue(rabbit) -> Iterator[str]:
    """The name of an input queue for this test only; it and its companions are deleted afterwards."""
    name = f"system.{uuid.uuid4().hex[:8]}"
    yield name
    with Client(rabbit.url()) as client:
        for suffix in ("", ".dlq", ".out", ".retry.1s", ".retry.2s", ".retry.4s", ".retry.1024s"):
            client.channel.queue_delete(name + suffix)


@pytest.fixture(scope="session")
def tls(tmp_path_factory) -> Path:
    """The folder of certificates for localhost."""
    folder = tmp_path_factory.mktemp("tls")
    certificates(folder, "DNS:localhost")
    return folder


@pytest.fixture(scope="session")
def breakable(rabbit, tls, tmp_path_factory) -> Iterator[RabbitNode]:
    """A node that may be stopped, with TLS on its own port, for those of the group `outages`."""
    port = free_port()
    made = temporary(tmp_path_factory.mktemp("rabbit"), config=tls_lines(tls, f"127.0.0.1:{port}"))
    made.tls_port = port
    yield made
    made.close()


@pytest.fixture
def node(breakable) -> Iterator[RabbitNode]:
    """That node, running again after the test."""
    yield breakable
    if not breakable.running():
        breakable.start()


@pytest.fixture
def service() -> Iterator[Callable[..., ServiceProcess]]:
    """Creates services, not yet started; afterwards none of their processes, semaphores and folders is left."""
    yield from services()


@pytest.fixture(scope="module")
def module_service() -> Iterator[Callable[..., ServiceProcess]]:
    """The same for services that all tests of a module share."""
    yield from services()


def services() -> Iterator[Callable[..., ServiceProcess]]:
    made: list[ServiceProcess] = []

    def make(config: str, files: dict[str, str] | None = None, **env: str) -> ServiceProcess:
        made.append(ServiceProcess(config, files, **env))
        return made[-1]

    yield make
    for one in made:
        if one.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.stop(45)
            print(one.log.read_text()[-20_000:])  # pytest shows it when the test has failed
        with contextlib.suppress(AssertionError):
            gone(one, 5)  # the resource tracker of multiprocessing ends by itself a moment after the Service
    left = [one.pids() for one in made]
    leaked = [one.leaked_semaphores() for one in made]
    for one in made:
        one.close()
        gone(one)
    assert not any(left), f"processes outlived their service: {left}"
    assert not any(leaked), f"semaphores outlived their service: {leaked}"
