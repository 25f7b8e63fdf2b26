"""What mqworker is compared with: every answer is checked, and no process stays behind."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks import handlers
from tests.benchmarks.contestants import jobs, peers
from tests.benchmarks.contestants.answers import WrongAnswersError, check
from tests.benchmarks.contestants.tree import ContestantError, Tree
from tests.benchmarks.queues import Queues
from tests.support.waiting import wait_for

BODIES = [b'{"id": 7, "loops": 5}', b'{"id": 3, "loops": 9}']
installed = pytest.mark.skipif(
    not peers.available(), reason="no .venv-benchmarks here (scripts/setup --benchmarks makes it)"
)
together = pytest.mark.xdist_group("contestants")  # which all use the same queue for their results


def test_answers_are_matched_with_their_inputs():
    """Right answers come in the order of the inputs, whatever order they came in, and repeats are told."""
    first, second = json.dumps({"loops": 5, "id": 7}).encode(), BODIES[1]
    assert check("same", BODIES, [second, first, second]) == ([first, second], 1)
    totals = [json.dumps(handlers.burn(json.loads(body))).encode() for body in BODIES]
    assert check("burn", BODIES, totals[::-1]) == (totals, 0)


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (BODIES[:1], r"1 of 2 answers are missing \(ids \[3\]\), 0 are made up"),
        ([BODIES[0], BODIES[0]], "1 of 2 answers are missing"),
        ([*BODIES, b'{"id": 8, "loops": 5}'], "0 of 2 answers are missing .*, 1 are made up .*8"),
        ([BODIES[0], b'{"id": 3, "loops": 5}'], "1 of 2 answers are missing .*, 1 are made up"),
        ([*BODIES, b"no JSON"], "1 are made up .*no JSON"),
        ([*BODIES, b'["id"]'], "1 are made up"),
        ([*BODIES, b'{"id": [7]}'], "1 are made up"),
    ],
    ids=["missing", "repeated instead", "unknown", "of another", "no JSON", "no object", "no id"],
)
def test_wrong_answers_are_noticed(answers, told):
    """An answer that is missing, or that no input has, is an error that says which."""
    with pytest.raises(WrongAnswersError, match=told):
        check("same", BODIES, answers)


def test_all_contestants_have_the_same_jobs(monkeypatch):
    """What the others compute is what mqworker's handlers compute."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    for job, handler, body in (
        (jobs.same, handlers.same, {"id": 1, "pad": "x"}),
        (jobs.burn, handlers.burn, {"id": 1, "loops": 100}),
        (jobs.mixed, handlers.wait, {"id": 1, "seconds": 0.25}),
    ):
        assert job(body) == handler(body)
    assert slept == [0.25, 0.25]


CHILDREN = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() and os.fork():
    open("up", "w").close()
else:
    os.setpgid(0, 0)
signal.pause()
"""


def test_a_tree_leaves_nothing_behind():
    """Ctrl-C ends the command, its children, stopped and in process groups of their own, and removes its folder."""
    tree = Tree([sys.executable, "-Sc", CHILDREN], {"given": "text"}, {})

    def interrupted() -> None:
        with tree:
            wait_for((tree.folder / "up").exists, 20, "the command")
            assert (tree.folder / "given").read_text() == "text"
            pids = tree.pids()
            wait_for(lambda: len(set(map(os.getpgid, pids))) == 3, 20, "process groups of their own")
            assert all(size > 0 for size in tree.memory())
            tree.hold()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not tree.pids()
    assert not tree.folder.exists()


def test_a_tree_that_is_released_goes_on():
    """Processes that were held do nothing meanwhile, and go on when they are released."""
    with Tree(["sh", "-c", "while :; do echo >> lines; done"], {}, {}) as tree:
        lines = tree.folder / "lines"
        wait_for(lines.exists, 20, "its first line")
        tree.hold()
        size, cpu = lines.stat().st_size, tree.cpu()
        assert cpu > 0
        assert (lines.stat().st_size, tree.cpu()) == (size, cpu)
        tree.release()
        wait_for(lambda: lines.stat().st_size > size, 20, "a further line")


def test_blocking_workers_end_with_their_command():
    """One SIGTERM to the command is enough: the connections of its workers close."""
    told = {"BENCH_IN": "in", "BENCH_OUT": "out", "BENCH_PREFETCH": "1", "BENCH_JOB": "same"}
    with socket.create_server(("127.0.0.1", 0)) as broker:  # which says nothing: they wait for its first frame
        broker.settimeout(30)
        told["BENCH_URL"] = f"amqp://127.0.0.1:{broker.getsockname()[1]}"
        command = subprocess.Popen([sys.executable, peers.BLOCKING.program, "2"], env=os.environ | told)
        try:
            connections = [broker.accept()[0] for _ in range(2)]
        finally:
            command.terminate()
        assert command.wait(30) == -signal.SIGTERM
        for connection in connections:
            with connection:
                connection.settimeout(5)
                while connection.recv(64):
                    pass


CLIENTS = """
import json
from celery import Celery
from dramatiq import Message
body = {"id": 7, "loops": 5}
task = Celery().amqp.as_task_v2("7", "job", (body,), {})
message = Message("q", "job", (body,), {}, {}, message_id="", message_timestamp=0)
print(json.dumps([task.headers, task.body, message.asdict()]))
"""


def changed(name: str, path: Path, old: str, new: str, **rest) -> peers.Peer:
    """A contestant with another text in its program."""
    peer = peers.available()[name]
    text = peer.program.read_text()
    assert text.count(old) == 1
    (path / peer.program.name).write_text(text.replace(old, new))
    return peer._replace(program=path / peer.program.name, **rest)


@pytest.fixture
def queues(rabbit) -> Iterator[Queues]:
    """The queues of a measurement."""
    made = Queues(rabbit.url())
    yield made
    made._connection.close()


@pytest.mark.release
@pytest.mark.rabbitmq
@installed
@together
class TestContestants:
    """Real contestants on a real node."""

    @pytest.mark.parametrize("name", ["Celery", "Celery solo", "Dramatiq", "FastStream", "blocking worker"])
    def test_every_message_has_its_answer(self, rabbit, queues, name):
        """Each contestant answers 200 messages rightly, has a latency and a memory, and leaves no queue behind."""
        peer = peers.available()[name]
        bodies = [json.dumps({"id": number, "loops": 10}).encode() for number in range(200)]
        figures = peer.run(queues, "burn", bodies)
        assert list(map(json.loads, figures.results)) == [jobs.burn(json.loads(body)) for body in bodies]
        assert figures.rate > 0 < figures.cpu_us
        latencies = peer.latency(queues, 5)
        assert len(latencies) == 5
        assert all(0 < seconds < 5 for seconds in latencies)
        sizes = peer.memory(queues, 2)
        assert len(sizes) >= 3  # two workers and what watches them
        assert sorted(sizes)[-2] > 1_000_000
        assert rabbit.queue(peer.queue) is rabbit.queue(f"{peer.queue}.XQ") is None

    def test_a_dropped_answer_is_noticed(self, queues, tmp_path):
        """A worker that acks a message without a result is found out."""
        publish = '    channel.basic_publish("", OUT,'
        drops = changed("blocking worker", tmp_path, publish, f"    if b': 77' not in body:{publish}", patience=2.0)
        with pytest.raises(ContestantError, match="blocking worker: 199 of 200 results, and no more"):
            drops.run(queues, "same", [b'{"id": %d}' % number for number in range(200)])

    def test_a_contestant_that_does_not_start_shows_its_output(self, queues, tmp_path):
        """Its error is in ours."""
        broken = changed("Celery", tmp_path, "import json\n", "import no_such_module\n")
        with pytest.raises(ContestantError, match=r"(?s)Celery does not start.*no_such_module"):
            broken.run(queues, "same", BODIES)

    def test_messages_are_as_their_own_clients_send_them(self):
        """The formats that are written here have what the installed versions send."""
        done = subprocess.run([peers.PROGRAMS / "python", "-c", CLIENTS], capture_output=True, text=True, check=True)
        headers, body, message = json.loads(done.stdout)
        ours, properties = peers.available()["Celery"].message("q", BODIES[0])
        assert properties.headers.keys() == headers.keys()
        assert json.loads(ours) == body
        ours, _ = peers.available()["Dramatiq"].message("q", BODIES[0])
        told = json.loads(ours)
        assert told | {"message_id": "", "message_timestamp": 0} == message
