"""A whole service where programs of its kind are known to fail: containers, bare environments, odd parents."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.embedded import HANDLER, Client, config
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

SPEAKING = HANDLER.replace("    began =", "    print('größe €')\n    began =", 1)
IN_NAMESPACES = ("unshare", "--mount", "--uts", "--ipc")


def shell(script: str) -> tuple[str, ...]:
    """Run the command after some lines of shell."""
    return ("sh", "-ec", f'{script}\nexec "$@"', "sh")


def python(script: str) -> tuple[str, ...]:
    """Run the command after some Python."""
    return (sys.executable, "-c", f"import os, signal, sys\n{script}\nos.execvp(sys.argv[1], sys.argv[1:])")


def needs_namespaces() -> None:
    """Skip for a user who may not make them."""
    if subprocess.run([*IN_NAMESPACES, "true"], capture_output=True, check=False, timeout=30).returncode:
        pytest.skip("this user may not make namespaces")


STRANGER = (
    "setpriv",
    *("--reuid=54321", "--regid=54321", "--clear-groups"),
    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),  # the tests' own Python may be out of its reach
    *("env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME"),
)
CLOSED = "stdin, stdout and stderr closed"
HOSTS = {
    "a host name that does not resolve": (*IN_NAMESPACES, *shell("hostname nowhere.invalid")),
    "64 KiB of shared memory": (*IN_NAMESPACES, *shell("mount -t tmpfs -o size=64k none /dev/shm")),
    "no network but a loopback that is down": ("unshare", "--net"),
    "a user without a name and a home": ("unshare", "--mount", *STRANGER),
    "ASCII as the encoding": ("env", "LC_ALL=C", "PYTHONCOERCECLOCALE=0", "PYTHONUTF8=0"),
    "a time zone that does not exist": ("env", "TZ=Nowhere/Never"),
    "no folder for temporary files": ("env", "TMPDIR=/nonexistent"),
    "256 descriptors": ("prlimit", "--nofile=256:256"),
    CLOSED: ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"),
    "SIGCHLD ignored by the parent": python("signal.signal(signal.SIGCHLD, signal.SIG_IGN)"),
    "all signals blocked by the parent": python("signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())"),
}


@pytest.mark.parametrize("host", HOSTS)
def test_it_runs_and_stops_as_anywhere(service, host):
    """It is ready, handles each message once, logs what the handler prints, in ASCII, and ends with 0 on TERM."""
    if HOSTS[host][0] == "unshare":
        needs_namespaces()
    running: ServiceProcess = service(config(consumers=1), {"jobs.py": SPEAKING})
    running.command = [*HOSTS[host], *running.command]
    running.start()
    with Client(running) as client:
        client.send(20)
        client.finish()
    assert running.stop() == 0
    if host != CLOSED:
        assert running.log.read_bytes().isascii()
        assert [event["msg"] for event in running.events() if event["event"] == "output"] == ["größe €"] * 20


def test_with_ipv6_alone(service):
    """Where the loopback has no IPv4 address, it listens on ::1 and is reached there under that address."""
    needs_namespaces()
    if shutil.which("ip") is None:
        pytest.skip("the command ip is not installed")
    running: ServiceProcess = service(config(control='port = 0\nhost = "::1"'), {"jobs.py": HANDLER})
    only = shell("ip link set lo up; ip address delete 127.0.0.1/8 dev lo; ! ip -4 -o address | grep .")
    running.command = ["unshare", "--net", *only, *running.command]
    running.start()
    port = running.event("started")["url"].rpartition(":")[2]
    assert running.process is not None
    look = (
        "from mqworker.address import Address; from mqworker.client import Client;"
        f" print(Client(Address('::1', {port})).get('/status')['state'])"
    )
    inside = ["nsenter", "--net", "--target", str(running.process.pid), sys.executable, "-c", look]
    done = subprocess.run(inside, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("running\n", "")
    assert running.stop() == 0


def test_as_the_first_process_of_a_container(service):
    """As PID 1 it reaps what user code leaves behind, ends what an exec leaves behind, and TERM drains it."""
    needs_namespaces()
    leaving = HANDLER.replace("    began =", "    os.system('true & true &')\n    began =", 1).replace(
        "import", "import os\nimport", 1
    )
    running: ServiceProcess = service(config(consumers=1), {"jobs.py": leaving})
    running.command = ["unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child", *running.command]
    running.start()
    with Client(running) as client:
        client.send(20)
        client.finish()
    assert running.process is not None
    (first,) = map(int, Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split())

    def zombies() -> list[str]:
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [pid for pid in children if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"]

    wait_for(lambda: not zombies(), 20, "the dead to be reaped")
    left = ["nsenter", "--target", str(first), "--pid", "--mount", "sh", "-c", "sleep 600 &"]
    subprocess.run(left, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60, check=True)
    assert "sleep" in running.event("orphan_killed")["msg"]
    os.kill(first, signal.SIGTERM)
    assert running.wait() == 0


@pytest.mark.parametrize(
    ("mount", "cause"),
    [
        ("mount -t tmpfs -o ro none /dev/shm", "Read-only file system"),
        ("mount -t tmpfs -o size=4k none /dev/shm; echo full >/dev/shm/full", "No space left on device"),
    ],
)
def test_without_shared_memory_the_start_is_refused_with_the_cause(service, mount, cause):
    """Exit 78 before anything is started, with the folder that semaphores need; it used to run and compute nothing."""
    needs_namespaces()
    running: ServiceProcess = service(config(), {"jobs.py": HANDLER})
    running.command = [*IN_NAMESPACES, *shell(mount), *running.command]
    running.start(ready=None)
    assert running.wait() == 78
    assert f"semaphores cannot be made in /dev/shm ({cause})" in running.event("cannot_start")["msg"]


def test_the_advice_on_shared_memory_is_given_only_where_it_helps():
    """Where semaphores fail for another reason, the sentence has that cause and no advice to mount anything."""
    code = (
        "import multiprocessing.synchronize, resource\n"
        "from mqworker.service.instance import StartError, _check_semaphores\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "try:\n"
        "    _check_semaphores()\n"
        "except StartError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "semaphores cannot be made in /dev/shm (Too many open files)\n"


def test_a_folder_that_cannot_be_written_is_refused_with_the_setting(service):
    """On a read-only file system exit 78 names service.state_dir, and with another one it runs."""
    needs_namespaces()
    running: ServiceProcess = service(config(), {"jobs.py": HANDLER})
    plain = running.command
    read_only = shell(f"mount --bind {running.folder} {running.folder}; mount -o remount,ro,bind {running.folder}")
    running.command = [*IN_NAMESPACES, *read_only, *plain]
    running.start(ready=None)
    assert running.wait() == 78
    assert "service.state_dir" in running.event("cannot_start")["msg"]
    inside = running.folder / ".mqworker"
    inside.mkdir(mode=0o700)
    writable = shell(
        f"mount --bind {running.folder} {running.folder}; mount -t tmpfs none {inside}; "
        f"mount -o remount,ro,bind {running.folder}"
    )
    running.log.write_text("")
    running.command = [*IN_NAMESPACES, *writable, *plain]
    running.start(ready=None)
    running.event("started")
    assert running.stop() == 0
