"""A whole service on a disk of 12 MB that fills up: changes refused, nothing confirmed that is not stored, no exit."""

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Client, config
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

ECHO = """\
def handle(body):
    return body
"""


class Disk:
    """A small file system at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def reserve(self, size: int) -> None:
        """Occupy some space, to be released by `free`."""
        self._ballast.write_bytes(bytes(size))

    def fill(self, leave: int = 0) -> None:
        """Fill the disk up to this many bytes."""
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))
        os.truncate(self._ballast, self._ballast.stat().st_size - leave)

    def free(self) -> None:
        """Release the space."""
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    """Mounted before the service is made and until it is gone; skipped for a user who may not mount."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=12m,mode=700", "tmpfs", folder]
    if not mount or not umount or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    yield Disk(folder)
    subprocess.run([umount, "--lazy", folder], check=True)


@pytest.fixture
def on_disk(disk, service) -> Callable[..., ServiceProcess]:
    """Make a service whose state folder is the small disk."""

    def make(toml: str, jobs: str = ECHO) -> ServiceProcess:
        running: ServiceProcess = service(toml, {"jobs.py": jobs})
        (running.folder / ".mqworker").symlink_to(disk.folder)
        return running

    return make


def test_a_change_that_cannot_be_stored_is_refused(on_disk, disk):
    """507 with the folder and the reason, and nothing changed; work goes on, even in a new tree; later it is stored."""
    elsewhere = config().replace("[stages.work]", '[broker]\nurl = "sqlite:///broker.db"\n[stages.work]')
    running = on_disk(elsewhere)
    running.start()
    change = ("PUT", "/api/v1/stages/work/consumers?wait=30", {"count": 3})
    before = running.stage("work")["desired"]
    disk.fill()
    status, told = running.ask(*change)
    assert (status, told["status"], told["kind"]) == (507, 507, "storage")
    assert "No space left on device" in told["detail"]
    assert str(disk.folder) in told["detail"] or ".mqworker" in told["detail"]
    refused = running.cli("scale", "3")
    assert refused.returncode == 1
    assert "No space left on device" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert running.stage("work")["desired"] == before
    with Client(running, "broker.db") as client:
        client.send(50)
        wait_for(lambda: client.ready("out") == 50, 30, "results while the disk is full")
        (producer,) = running.named("mqw-producer")
        subprocess.run(["kill", "-9", str(producer)], check=True)
        client.send(50)
        client.finish()
    disk.free()
    assert running.ask(*change)[0] == 200
    assert running.stage("work")["desired"]["consumers"] == 3
    assert running.stop() == 0


def test_a_start_without_space_says_so_and_works_later(on_disk, disk):
    """A service that cannot store anything at its start exits with 1 and a sentence; with space again it starts."""
    running = on_disk(config())
    disk.fill()
    running.start(ready=None)
    assert running.wait() == 1
    _starting, code, said = running.events()
    assert "is not copied" in code["msg"]
    assert "No space left on device" in code["msg"]
    assert said["event"] == "cannot_start"
    assert "No space left on device; free some space, or set service.state_dir" in said["msg"]
    disk.free()
    running.start()
    assert running.stop() == 0


def test_space_for_the_state_alone_kills_nobody(on_disk, disk):
    """Without room for the in-hand register the Producer reports it, is not killed by SIGBUS, and starts later."""
    running = on_disk(config().replace("[stages.work]", '[broker]\nurl = "sqlite:///broker.db"\n[stages.work]'))
    disk.fill(leave=64 << 10)
    running.start(ready=None)
    wait_for(lambda: "OSError: [Errno 28] No space left on device" in running.log.read_text(), 30, "the reason")
    disk.free()
    running.wait_ready()
    assert "killed by" not in running.log.read_text()
    assert running.stop() == 0


def test_the_embedded_broker_confirms_nothing_it_cannot_store(on_disk, disk):
    """Every message that `send` counted has one result, no other has any; all goes on by itself when space returns."""
    running = on_disk(config())
    disk.reserve(8 << 20)  # what remains is less than the log that SQLite keeps
    running.start()
    bodies = [json.dumps({"n": n, "pad": "x" * 60_000}) for n in range(200)]  # twice what there is room for
    counted = running.cli("send", input="\n".join(bodies).encode())
    assert counted.returncode != 0
    assert "full" in counted.stderr, counted.stderr
    assert "Traceback" not in counted.stderr
    said = re.search(r"stopped: (\d+) sent", counted.stderr)
    assert said, counted.stderr
    sent = int(said[1])
    assert 0 < sent < 200
    disk.free()
    with Client(running) as client:
        wait_for(lambda: client.ready("out") == sent, 60, f"{sent} results")
        assert sorted(result.body["n"] for result in client.results()) == list(range(sent))
        assert client.ready() == client.ready("in.dlq") == 0
    again = running.cli("send", '{"n": -1}', "--wait")
    assert json.loads(again.stdout) == {"n": -1}, again.stderr
    assert running.stop() == 0


def test_a_full_log_does_not_stop_the_work(disk, service):
    """With stdout on a full disk all work is done and answered; later lines are whole, lost ones counted."""
    running: ServiceProcess = service(config("retry = { max_attempts = 1 }"), {"jobs.py": ECHO})
    running.log = disk.folder / "log"
    running.start()
    disk.fill()
    with Client(running) as client:
        client.send(200)
        client.send_raw([b"{"] * 100)  # each dead letter is a line of the log
        wait_for(lambda: client.ready("out") == 200 and client.ready("in.dlq") == 100, 30, "all to have an outcome")
    assert running.ask("GET", "/readyz")[0] == 200
    disk.free()
    assert running.ask("PUT", "/api/v1/log-level", {"level": "debug"})[0] == 202
    wait_for(lambda: "logs_dropped" in running.log.read_text(), 20, "the count of lost lines")
    assert running.stop() == 0
    lines = running.log.read_text().splitlines()
    torn = [line for line in lines if not line.endswith("}")]
    assert len(torn) <= 1, "only the line that filled the disk is cut"
    events = [json.loads(line) for line in lines if line not in torn]
    assert events[-1]["event"] == "stopped"
    assert events[-1]["exit_code"] == 0
