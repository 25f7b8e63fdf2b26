"""Hosts of their own on this machine: network namespaces, each with one cable to a common switch.

Made by the test process, as root. A host has a loopback of its own, an address that the others reach, and the machine's
file system and process table. The switch is a bridge in a namespace too, so nothing appears on the machine's own
network. Each namespace lives as long as the process that holds it, which dies with the test process: nothing is left.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.support.waiting import wait_for

NETWORK = "10.213.47"  # of the hosts; exists only between them
CLONE_NEWNET = 0x40000000
TOOLS = ("ip", "unshare", "nsenter", "setpriv")


class Host:
    """One namespace; `number` is the last part of its address."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.address = f"{NETWORK}.{number}"
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]
        self._holder = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        self.pid = self._holder.pid
        self._net = Path(f"/proc/{self.pid}/ns/net")
        try:
            wait_for(self._made, 10, "the namespace")
        except BaseException:
            self.close()
            raise

    @property
    def enter(self) -> tuple[str, ...]:
        """What to write before a command, to run it on this host with the same pid."""
        return "nsenter", f"--net={self._net}", "--"

    def ip(self, *lines: str) -> None:
        """Run lines of `ip` here; raises CalledProcessError."""
        text = "\n".join(lines).encode()
        subprocess.run([*self.enter, "ip", "-batch", "-"], input=text, check=True, capture_output=True, timeout=60)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets that this thread makes in the block are on this host, and stay there."""
        home, there = os.open("/proc/thread-self/ns/net", os.O_RDONLY), os.open(self._net, os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(home)
        finally:
            os.close(there)
            os.close(home)

    def close(self) -> None:
        """Let the namespace end; what still runs in it keeps it, without a cable."""
        self._holder.kill()
        self._holder.wait(10)
        assert self._holder.stderr is not None
        self._holder.stderr.close()

    def _made(self) -> bool:
        if self._holder.poll() is not None:
            assert self._holder.stderr is not None
            raise OSError(self._holder.stderr.read().decode().strip())
        return Path("/proc/self/ns/net").readlink() != self._net.readlink()


class Network:
    """Hosts on one switch. `cut` and `mend` are a cable that is pulled out, and put in again."""

    def __init__(self, count: int) -> None:
        """Make hosts with the numbers 1 to `count`; OSError or CalledProcessError where that is not possible."""
        self._switch = Host(254)
        self.hosts: list[Host] = []
        try:
            self._switch.ip("link add name switch type bridge", "link set switch up")
            for number in range(1, count + 1):
                host = Host(number)
                self.hosts.append(host)
                port = f"port{number}"
                self._switch.ip(
                    f"link add name {port} type veth peer name eth0 netns {host.pid}",
                    f"link set {port} master switch",
                    f"link set {port} up",
                )
                host.ip("link set lo up", f"address add {host.address}/24 dev eth0", "link set eth0 up")
        except BaseException:
            self.close()
            raise

    def cut(self, host: Host) -> None:
        """Lose everything that this host sends or is sent, from now on; nobody is told."""
        self._switch.ip(f"link set port{host.number} down")

    def mend(self, host: Host) -> None:
        """Undo `cut`."""
        self._switch.ip(f"link set port{host.number} up")

    def close(self) -> None:
        """End all."""
        for host in (*self.hosts, self._switch):
            host.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def impossible() -> str:
    """Return why there can be no hosts here; "" when there can."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"not installed: {', '.join(missing)}"
    try:
        Network(1).close()
    except subprocess.CalledProcessError as error:
        return f"no virtual network can be made here: {error.stderr.decode().strip()}"
    except OSError as error:
        return f"no network namespace can be made here: {error}"
    return ""


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET):  # as os.setns of Python 3.12
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
