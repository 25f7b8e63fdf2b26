"""A Consumer's process, before it does anything."""

import subprocess
import sys

NOT_ITS_OWN = (
    *("asyncio", "flask", "mqworker.brokers", "mqworker.config.load", "pika", "sqlite3", "ssl", "waitress"),
    "numpy",  # it reads the number of its threads when it is imported
)


def test_a_consumer_imports_nothing_that_only_others_need():
    """Each new Consumer waits for its imports, so it does without those of the loop, the broker and the HTTP server."""
    code = f"import sys, mqworker.consumer.process; print(*set(sys.modules) & set({NOT_ITS_OWN}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []
