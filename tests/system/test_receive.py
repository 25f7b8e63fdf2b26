"""Results are read with `mqworker receive`: each at least once, whoever is killed meanwhile."""

import contextlib
import json
import signal
import subprocess

import pytest

from mqworker.exits import Exit
from tests.support import embedded, foreign
from tests.support.service import ServiceProcess
from tests.support.waiting import AMPLE, wait_for
from tests.system.stage import config, counted

pytestmark = pytest.mark.system

COPY = "def handle(body):\n    return body\n"
KINDS = """\
from mqworker import Result

def handle(body):
    if body == "bytes":
        return Result(b"\\xff\\n", content_type="application/octet-stream")
    return Result("plain words" if body == "text" else "one\\ntwo", content_type="text/plain")
"""


def parsed(text: str) -> list[int]:
    """Return the numbers of all whole lines: whoever is killed may leave half a line."""
    numbers = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            numbers.append(json.loads(line)["n"])
    return numbers


def received(running: ServiceProcess, *arguments: str) -> list[str]:
    """Run `receive` to its end; return the lines that it printed."""
    done = running.cli("receive", *arguments)
    assert done.returncode == Exit.OK, done.stderr
    lines = done.stdout.splitlines()
    assert f"{len(lines)} received from" in done.stderr
    return lines


def test_results_of_the_embedded_broker_are_taken(service):
    """The output queue by default, oldest first, each once; -n takes so many, and the next call the others."""
    running = service(embedded.config(consumers=1), {"jobs.py": COPY}).start()
    assert received(running) == []
    with embedded.Client(running) as client:
        client.send(250)
        wait_for(lambda: client.ready("out") == 250, 60, "all results")
        first = received(running, "-n", "2")
        assert client.ready("out") == 248
        assert [json.loads(line)["n"] for line in first + received(running)] == list(range(250))
        assert client.ready("out") == 0
    letters = running.cli("receive", f"{embedded.DEAD}")
    assert letters.stderr.startswith(
        f"{embedded.DEAD} holds the dead letters of stage work: what is printed is removed"
    )
    missing = running.cli("receive", "nobody")
    why = "there is no queue 'nobody'; `mqworker queues list` shows those of the configuration"
    assert (missing.returncode, why in missing.stderr) == (Exit.USAGE, True)


def test_headers_go_with_a_message_and_come_with_its_result(service):
    """`send --header` sets text; what is reserved is refused with a sentence, and nothing is sent."""
    running = service(embedded.config(), {"jobs.py": COPY}).start()
    assert (
        running.cli("send", '{"n": 1}', "-H", "camera=entrance, 2=3", "--header", "Camera=", "--wait").returncode == 0
    )
    for name in ("x-mqworker-attempt", "CC", "x-death"):
        refused = running.cli("send", '{"n": 1}', "--header", f"{name}=1")
        assert (refused.returncode, f"the header {name} of a message" in refused.stderr) == (Exit.USAGE, True)
    (line,) = received(running, "--json")
    told = json.loads(line)
    assert {"camera": "entrance, 2=3", "Camera": ""}.items() <= told["headers"].items()
    assert (told["content_type"], json.loads(told["body_text"])) == ("application/json", {"n": 1})
    counted(running, received=1)


def test_any_body_is_one_line(service):
    """Text as it is; what is no line of text in base64, which is told."""
    running = service(embedded.config(consumers=1), {"jobs.py": KINDS}).start()
    for kind in ("text", "lines", "bytes"):
        running.cli("send", json.dumps(kind), "--wait")
    done = running.cli("receive")
    assert done.stdout.splitlines() == ["plain words", "b25lCnR3bw==", "/wo="]
    assert done.stderr.count("in base64: ") == 2


def test_who_follows_and_is_killed_loses_nothing(service):
    """`--follow` prints results as they come; what a killed one had not confirmed comes again, and all comes."""
    running = service(embedded.config(), {"jobs.py": COPY}).start()
    printed = running.folder / "printed"
    with embedded.Client(running) as client, printed.open("ab") as file:

        def follow() -> subprocess.Popen[bytes]:
            client.send(150)
            verb = [*running.command, "receive", "--follow"]
            return subprocess.Popen(verb, cwd=running.folder, env=running.env, stdout=file, stderr=subprocess.PIPE)

        def all_done() -> bool:
            results = running.stage("work")["actual"]["counters"]["result"]
            return results == client.sent and client.ready("out") == 0

        with follow() as one:
            wait_for(lambda: printed.stat().st_size > 0, AMPLE, "the first results")
            one.kill()
        file.write(b"\n")
        file.flush()
        with follow() as one:
            wait_for(all_done, AMPLE, "all of them to be taken")
            one.send_signal(signal.SIGINT)
            told = one.communicate(timeout=AMPLE)[1]
        assert (one.returncode, b"received from out" in told) == (Exit.OK, True)
    assert set(parsed(printed.read_text())) == set(range(300))


@pytest.mark.rabbitmq
def test_results_on_rabbitmq_are_taken(rabbit, queue, service):
    """The same on RabbitMQ: each once, in order; a reader that goes away leaves them where they are."""
    with foreign.Client(rabbit.url()) as client:
        running = service(config(rabbit.url(), queue, consumers=1), {"jobs.py": COPY}).start()
        client.publish_all(queue, (json.dumps({"n": n}).encode() for n in range(150)))
        lines: list[str] = []
        wait_for(lambda: len(lines.extend(received(running)) or lines) == 150, 60, "all results")
        assert [json.loads(line)["n"] for line in lines] == list(range(150))
        assert client.rest(f"{queue}.out") == []
        client.publish(f"{queue}.out", json.dumps("x" * 100_000).encode())
        gone = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {' '.join(running.command)} receive | true"],
            cwd=running.folder,
            env=running.env,
            capture_output=True,
            timeout=AMPLE,
            check=False,
        )
        assert gone.stderr == b"", gone.stderr
        assert len(client.rest(f"{queue}.out")) == 1
