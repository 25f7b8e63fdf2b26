"""Fixtures of all tests, and how they are spread over worker processes (pytest-xdist), each with a RabbitMQ node."""

import faulthandler
import operator
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support import rabbitmq

hypothesis.settings.register_profile("mqworker", deadline=None)  # the machine is busy: tests have their time limit
hypothesis.settings.load_profile("mqworker")

WORKERS = 4  # for two cores: three tests wait for other processes while one computes
LONG, SHORT, MODULE = 12.0, 3.0, 5.0  # seconds that such tests, and a module of those that compute, take
TEARDOWN = 240  # seconds
STDERR = pytest.StashKey[int]()  # of this process, whatever is captured


def pytest_configure(config: pytest.Config) -> None:
    """Hear SIGINT and SIGHUP, also in the background or below nohup, and have what is started here hear them."""
    config.stash[STDERR] = os.dup(2)  # nothing is captured at this moment
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many for all tests or a folder of them; none where files or tests are named: those start sooner without."""
    return 0 if all(".py" in named for named in config.args) else WORKERS


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put what waits and what computes side by side; the longest begin first. A release has more tests (`-m release`).

    What holds only on another version of RabbitMQ is skipped, with its reason.
    """
    if "release" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("release")])
        items[:] = [item for item in items if item.get_closest_marker("release") is None]
    version = rabbitmq.major_version()
    for item in items:
        only = item.get_closest_marker("rabbitmq_only")
        if only is not None and version not in (0, only.args[0]):
            item.add_marker(pytest.mark.skip(f"holds only on RabbitMQ {only.args[0]}: {only.kwargs['because']}"))
    kinds: dict[str, list[tuple[float, pytest.Item]]] = {"services": [], "brokers": [], "computing": []}
    modules: set[str] = set()
    for item in items:
        module = item.nodeid.partition("::")[0]
        if _waits(item):
            kind = "services" if item.get_closest_marker("system") else "brokers"
            kinds[kind].append((LONG if item.get_closest_marker("long") else SHORT, item))
        else:
            item.add_marker(pytest.mark.xdist_group(module))
            kinds["computing"].append((0.0 if module in modules else MODULE, item))
            modules.add(module)
    kinds["services"].sort(key=lambda each: -each[0])
    kinds["brokers"].sort(key=lambda each: -each[0])
    spread = [each for kind in kinds.values() for each in _spread(kind)]
    items[:] = [item for _, item in sorted(spread, key=operator.itemgetter(0))]


def _waits(item: pytest.Item) -> bool:
    """Return whether a test mostly waits for other processes."""
    return any(item.get_closest_marker(name) for name in ("long", "system", "rabbitmq"))


def _spread(items: list[tuple[float, pytest.Item]]) -> Iterator[tuple[float, pytest.Item]]:
    """Yield each item with the share of the time that those before it take."""
    total, before = sum(seconds for seconds, _ in items), 0.0
    for seconds, item in items:
        yield before / total, item
        before += seconds


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let a test that computes take the processor from none that waits: those have deadlines."""
    if _waits(item):
        return (yield)
    os.sched_setscheduler(0, os.SCHED_BATCH | os.SCHED_RESET_ON_FORK, os.sched_param(0))
    try:
        return (yield)
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run system tests, whose processes are not measured anyway, and those marked `untraced` without coverage.

    pytest-cov's own `no_cover` is of no use in a worker: there it only brings another measurement to the fore.
    """
    trace = sys.gettrace()
    if item.get_closest_marker("system") or item.get_closest_marker("untraced"):
        sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(trace)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """End this process and show where it stands if a teardown hangs: pytest-timeout's clock stops when a test fails."""
    faulthandler.dump_traceback_later(TEARDOWN, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Like `tmp_path`, with a short name: the path of a unix socket has at most 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="mqw-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory) -> Iterator[rabbitmq.RabbitNode]:
    """A RabbitMQ node for this worker's session; skipped where there is no server, except in CI."""
    if not rabbitmq.available():
        if os.environ.get("CI"):
            pytest.fail("CI needs rabbitmq-server")
        pytest.skip("rabbitmq-server is not installed")
    node = rabbitmq.temporary(tmp_path_factory.mktemp("rabbit"))
    yield node
    node.close()
