"""How quickly mqworker is there: from the command to the first result, and from a Consumer's death to its successor."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.contestants.mqworker import configuration, listen, project, running
from tests.benchmarks.queues import Queues

BODY = json.dumps({"id": 0}).encode()


def first_result(queues: Queues, code: Path) -> tuple[float, float]:
    """Return the seconds from the command to the first result, and the tree's own share of them.

    Which is what it takes beyond a plain interpreter that imports the user's module, run in the same moment.
    """
    queues.fill([BODY])
    with project(configuration(queues.url, "same"), code) as service:
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import bench_jobs"], cwd=service.folder, env=service.env, check=True)
        bare = time.monotonic() - began
        began = time.monotonic()
        service.start(ready=None)
        seconds = queues.arrival() - began
    return seconds, seconds - bare


def replaced(queues: Queues, code: Path) -> tuple[float, float]:
    """Return the seconds from the death of the only Consumer to the next result, and without the user's imports.

    The message is published right after the death, so the result comes when the successor is ready.
    """
    queues.fill([BODY])
    with running(configuration(queues.url, "same", consumers=1), code) as service:
        listen(service, enabled=True)
        queues.arrival()
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", ""], cwd=service.folder, env=service.env, check=True)
        bare = time.monotonic() - began
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import bench_jobs"], cwd=service.folder, env=service.env, check=True)
        imports = max(0.0, time.monotonic() - began - bare)
        [consumer] = service.named("mqw-consumer")
        began = time.monotonic()
        os.kill(consumer, signal.SIGKILL)
        queues.send(BODY)
        seconds = queues.arrival() - began
    return seconds, seconds - imports
