"""The memory of the Service."""

import subprocess
import sys

GROWTH = """\
import base64, json, threading
from pathlib import Path
from mqworker.service.memory import give_back_large_blocks

def private():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon"))

def answer():
    body = bytes(range(256)) * (16 << 10)
    told = [{"base64": base64.b64encode(body).decode(), "text": body.decode("latin-1")} for _ in range(2)]
    json.dumps(told).encode()

def serve(turn, done):
    turn.wait(60)
    answer()
    done.set()
    over.wait(60)

give_back_large_blocks()
over = threading.Event()
events = [(threading.Event(), threading.Event()) for _ in range(8)]
threads = [threading.Thread(target=serve, args=each) for each in events]
for thread in threads:
    thread.start()
before = private()
for turn, done in events:
    turn.set()
    done.wait(60)
print(private() - before)
over.set()
"""


def test_large_answers_of_many_threads_leave_no_memory_behind():
    """Of answers of 20 MiB from eight threads, which live on, less than 4 MiB stays with the process."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 4 << 10
