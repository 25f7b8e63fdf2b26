"""What each kind of process imports until it works: imports are most of what a start costs."""

import subprocess
import sys

import pytest

SERVER = {"flask", "jinja2", "prometheus_client", "waitress", "werkzeug"}
BROKERS = {"mqworker.brokers.rabbitmq", "mqworker.brokers.sqlite", "pika", "sqlite3"}
ADMIN = {"mqworker.broker_admin.verbs"}
SERVICE = {"click", "mqworker.config.load", "mqworker.http", "mqworker.service", "tomllib", *SERVER}
LOOP = {"asyncio", "ssl"}
USER_CODE = {"mqworker.consumer.work", "mqworker.jobs.chain", "numpy"}  # numpy reads its settings when it is imported
HTTP_CLIENT = {"email", "http.client", "ssl"}

NEVER = {  # kind of process: (what it imports before it works, what it needs not)
    "verb": ("cli", {*SERVER, *BROKERS, *LOOP, *HTTP_CLIENT, *USER_CODE, "msgspec", "multiprocessing"}),
    "verb that calls": ("cli.look client", {*SERVER, *BROKERS, *USER_CODE, "asyncio", "msgspec", "multiprocessing"}),
    "Service": (
        "cli.run service.main",
        {*SERVER, *BROKERS, *USER_CODE, *ADMIN, "http.client", "mqworker.producer.stage"},
    ),
    "HTTP server": ("http.answering", {*BROKERS, *USER_CODE, "mqworker.producer", "prometheus_client"}),
    "Producer": ("producer.process producer.life", {*SERVICE, *BROKERS, *USER_CODE, "http.client"}),
    "Consumer": (
        "consumer.process consumer.life",
        {*SERVICE, *BROKERS, *LOOP, "mqworker.brokers", "mqworker.producer", "numpy"},
    ),
    "source": ("sources.process sources.edge sources.user", {*SERVICE, *BROKERS, "mqworker.producer", "numpy"}),
    "shared object": (
        "shared_state.process shared_state.life shared_state.outside",
        {*SERVICE, *BROKERS, *LOOP, "numpy"},
    ),
    "broker admin": ("broker_admin.process broker_admin.verbs", {*SERVICE, *BROKERS, *USER_CODE}),
    "code check": ("code_check.process", {*SERVICE, *BROKERS, *LOOP, *USER_CODE}),
}


@pytest.mark.parametrize("kind", NEVER)
def test_a_process_imports_nothing_that_only_others_need(kind):
    """Until a process of this kind works, it has imported nothing of the others, and no library that only they use."""
    own, never = NEVER[kind]
    modules = ", ".join(f"mqworker.{module}" for module in own.split())
    code = f"import sys, {modules}; print(*sorted(set(sys.modules) & {never}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []
