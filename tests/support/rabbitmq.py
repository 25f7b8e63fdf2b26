"""A private RabbitMQ node: for a test session, or for development by `scripts/broker`.

Runs in the test process; the node is a child of it with its own name, port mapper (epmd), ports, cookie and folder, so
it meets no other node of the machine. Everything listens on loopback only. The node and its port mapper die with their
parent unless `detached`. Every process carries `MQWORKER_TEST_BROKER=<folder>` in its environment.

The server is the installed one, or that of another Debian in a folder, which `scripts/rabbitmq4` makes and names in
`MQWORKER_TEST_RABBITMQ_ROOT`: there the node and its tools run by chroot, with the temporary folder at the same path.
"""

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from tests.support.hosts import Host
from tests.support.ports import free_port
from tests.support.waiting import Patience, wait_for

ASKED = 3  # times that a busy node is asked
CALLS = itertools.count(1)  # several at once need names of their own
ROOT = os.environ.get("MQWORKER_TEST_RABBITMQ_ROOT", "")  # "" for the installed server
INTO_ROOT = ("/usr/sbin/chroot", ROOT) if ROOT else ()
INSTALLED = Path("/usr/lib/rabbitmq")  # below ROOT
SCRIPTS = INSTALLED / "bin"  # not the wrapper of Debian in /usr/sbin, which switches the user
MARKER = "MQWORKER_TEST_BROKER"
COUNTS = ("messages_ready", "messages_unacknowledged", "messages", "consumers")


class Rights(NamedTuple):
    """What a user may do with queues and exchanges, each by a regular expression over their names."""

    configure: str
    write: str
    read: str

    def in_erlang(self) -> str:
        """Return them as three binaries."""
        return ", ".join('<<"' + each.replace("\\", "\\\\") + '">>' for each in self)


def available() -> bool:
    """Return whether a RabbitMQ server is installed here."""
    return Path(f"{ROOT}{SCRIPTS}/rabbitmq-server").exists()


def major_version() -> int:
    """Return the major version of the nodes; 0 when no server is installed."""
    folders = Path(f"{ROOT}{INSTALLED}/lib").glob("rabbitmq_server-*")
    return max((int(folder.name.partition("-")[2].partition(".")[0]) for folder in folders), default=0)


class RabbitNode:
    """One node; `start` and `stop` may be repeated, its data stays in `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        config: tuple[str, ...] = (),
        advanced: str = "",
        plugins: tuple[str, ...] = (),
        erl_args: str = "",
        host: Host | None = None,
        detached: bool = False,
    ) -> None:
        """Prepare the folder; `config` are lines of rabbitmq.conf, `advanced` Erlang terms of its `rabbit` section.

        `erl_args` are further arguments of the VM; `host`: where the node and its tools run, instead of here.
        """
        self.folder = folder
        self.port = port or free_port()
        self._erl_args = erl_args
        self._host = host
        self._into = (*(host.enter if host else ()), *INTO_ROOT)
        self._detached = detached
        self._server: subprocess.Popen | None = None
        self._epmd: subprocess.Popen | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._ports = folder / "ports"  # epmd and distribution, kept so that ctl finds a detached node again
        if not self._ports.exists():
            self._ports.write_text(f"{free_port()} {free_port()}")
        self._epmd_port, self._dist_port = map(int, self._ports.read_text().split())
        self.name = f"mqworker-{self._dist_port}@localhost"
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "disk_free_limit.absolute = 1MB",
            "log.file.level = info",
            *config,
        ]
        (folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (folder / "advanced.config").write_text(f"[{{rabbit, [{advanced}]}}].\n")
        (folder / "plugins").write_text(f"[{', '.join(plugins)}].\n")
        (folder / "env.conf").write_text("")

    @property
    def env(self) -> dict[str, str]:
        """The environment of the node and of its tools."""
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.folder),  # of the cookie
            MARKER: str(self.folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-kernel inet_dist_use_interface {{127,0,0,1}} {self._erl_args}",
            "RABBITMQ_CTL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RUNNING_UNDER_SYSTEMD": "true",  # the script then becomes the VM instead of waiting for it
        }

    @property
    def pid(self) -> int:
        """The process id of the Erlang VM."""
        return int((self.folder / "pid").read_text())

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """Sockets that this thread makes in the block are on the node's host."""
        return self._host.inside() if self._host else contextlib.nullcontext()

    def running(self) -> bool:
        """Return whether the node answers AMQP."""
        try:
            with self.inside(), socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                probe.settimeout(1)
                probe.sendall(b"AMQP\0\0\x09\x01")
                return probe.recv(1) == b"\x01"
        except OSError:
            return False

    def start(self, deadline: float = 60) -> None:
        """Start the node and return when it accepts connections; raises RuntimeError with its last output otherwise."""
        self.spawn()
        assert self._server is not None
        patience = Patience(deadline)
        while not self.running():
            if self._server.poll() is not None or patience.over():
                self.kill()
                raise RuntimeError(f"RabbitMQ did not start: {(self.folder / 'output').read_text()[-2000:]}")
            time.sleep(0.05)

    def spawn(self) -> None:
        """Start the node without waiting; from the main thread, because it dies with the thread that started it."""
        guard = [*([] if self._detached else ["setpriv", "--pdeathsig", "KILL"]), *self._into]
        output = (self.folder / "output").open("ab")
        spawn = {"env": self.env, "stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, "cwd": self.folder}
        if self._epmd is None or self._epmd.poll() is not None:
            command = ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"]
            self._epmd = subprocess.Popen([*guard, *command], start_new_session=True, **spawn)
        command = [str(SCRIPTS / "rabbitmq-server")]
        self._server = subprocess.Popen([*guard, *command], start_new_session=True, **spawn)
        output.close()
        (self.folder / "pid").write_text(str(self._server.pid))
        (self.folder / "epmd.pid").write_text(str(self._epmd.pid))

    def stop(self) -> None:
        """Stop the node in an orderly way, and its port mapper."""
        self.thaw()
        self._signal(signal.SIGTERM)
        self._gone(20)
        self.kill()

    def kill(self) -> None:
        """SIGKILL the VM, like a power failure (files stay)."""
        self._signal(signal.SIGKILL)
        self._gone(10)

    def close(self) -> None:
        """Kill the node and its port mapper, at the end of a test session."""
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()  # does nothing to another process that has got the number of one that has ended
            self._epmd.wait(10)
        else:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self.folder / "epmd.pid").read_text()), signal.SIGKILL)
        (self.folder / "epmd.pid").unlink(missing_ok=True)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers; returns when it has taken effect."""
        pid = self._ours()
        assert pid, "the node does not run"
        os.kill(pid, signal.SIGSTOP)
        status = Path(f"/proc/{pid}/status")
        wait_for(lambda: "State:\tT" in status.read_text(), 10, "the node to be stopped")

    def thaw(self) -> None:
        """Undo `freeze`."""
        self._signal(signal.SIGCONT)

    def ctl(self, *args: str, tool: str = "rabbitmqctl", deadline: float = 60) -> str:
        """Run `rabbitmqctl --quiet ARGS` and return its output; raises RuntimeError when it fails."""
        command = [*self._into, str(SCRIPTS / tool), "--quiet", "--node", self.name, *args]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=deadline, check=False)
        if done.returncode:
            raise RuntimeError(f"{tool} {' '.join(args)}: {done.stdout}{done.stderr}")
        return done.stdout

    def eval(self, expression: str, deadline: float = 60) -> str:
        """Evaluate an Erlang expression in the node and return its value; takes a hundredth of what `ctl` does."""
        cookie = (self.folder / ".erlang.cookie").read_text()
        for left in range(ASKED, 0, -1):
            done = subprocess.run(
                [
                    *self._into,
                    "erl_call",
                    "-e",
                    "-sname",
                    self.name,
                    "-c",
                    cookie,
                    "-h",
                    f"c{next(CALLS)}-{os.getpid()}",
                ],
                env=self.env,
                input=f"{expression.rstrip('. ')}.\n",
                capture_output=True,
                text=True,
                timeout=deadline,
                check=False,
            )
            if left == 1 or "failed to connect" not in done.stdout + done.stderr:
                break  # otherwise the node was too busy to answer at once
        if not done.stdout.startswith("{ok, "):
            raise RuntimeError(f"erl_call {expression}: {done.stdout}{done.stderr}")
        return done.stdout.removeprefix("{ok, ").removesuffix("}")

    def allow(self, user: str, password: str, rights: Rights, vhost: str = "/") -> None:
        """Make a user, and the virtual host, and permit both this user and guest to use it."""
        self.eval(
            f'Vhost = <<"{vhost}">>, rabbit_vhost:exists(Vhost) orelse rabbit_vhost:add(Vhost, <<"test">>), '
            f'rabbit_auth_backend_internal:add_user(<<"{user}">>, <<"{password}">>, <<"test">>)'
        )
        self.permit("guest", Rights(".*", ".*", ".*"), vhost)
        self.permit(user, rights, vhost)

    def permit(self, user: str, rights: Rights, vhost: str = "/") -> None:
        """Change what a user may do, as `rabbitmqctl set_permissions` does."""
        permission = f'<<"{user}">>, <<"{vhost}">>, {rights.in_erlang()}, <<"test">>'
        self.eval(f"rabbit_auth_backend_internal:set_permissions({permission})")

    def refusals(self, user: str) -> list[str]:
        """Return the lines of the log that say what was refused to a user."""
        return [line for line in self.log().splitlines() if f"refused for user '{user}'" in line]

    def close_connections(self) -> None:
        """Close all connections, as `rabbitmqctl close_all_connections` does, in a hundredth of the time."""
        self.eval('rabbit_networking:close_connections(rabbit_networking:connections(), "test")')

    def limit_messages(self, size: int = 0) -> None:
        """Set `max_message_size`, in bytes, for connections that are opened from now on; by default as it was."""
        size = size or (16 << 20 if major_version() >= 4 else 128 << 20)
        # RabbitMQ 3 reads the first, RabbitMQ 4 the second.
        self.eval(
            f"application:set_env(rabbit, max_message_size, {size}), persistent_term:put(max_message_size, {size})"
        )

    def url(self, vhost: str = "/", user: str = "guest", password: str = "guest") -> str:
        """Return the AMQP URL of a virtual host."""
        return f"amqp://{user}:{password}@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    def queue(self, name: str, vhost: str = "/") -> dict[str, int] | None:
        """Return ready, unacknowledged, total messages and consumers of a queue; None when there is none."""
        found = self.eval(
            f'case rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{name}">>)) of'
            f"  {{ok, Queue}} -> try rabbit_amqqueue:info(Queue, [{', '.join(COUNTS)}])"
            "  catch exit:{normal, _} -> none; exit:{noproc, _} -> none end; _ -> none end"  # it has just ended
        )
        numbers = dict(re.findall(r"{(\w+), *(\d+)", found))
        return None if found == "none" else {name: int(numbers.get(name, 0)) for name in COUNTS}

    def log(self) -> str:
        """Return the log of the node so far."""
        return "".join(path.read_text(errors="replace") for path in sorted((self.folder / "log").glob("*.log")))

    def _ours(self) -> int:
        """Return the pid of the VM while it lives, else 0; never another process that has got the same number since."""
        if self._server is not None and self._server.poll() is not None:
            return 0
        try:
            pid = self.pid
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return 0
        return pid if f"{MARKER}={self.folder}".encode() in environment else 0

    def _signal(self, number: int) -> None:
        if pid := self._ours():
            os.kill(pid, number)

    def _gone(self, deadline: float) -> None:
        patience = Patience(deadline)
        while self._ours() and not patience.over():
            time.sleep(0.02)
        if self._server is not None and not self._ours():
            self._server.wait(5)  # reaps it


def temporary(folder: Path, **options) -> RabbitNode:
    """Return a started node with an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    node = RabbitNode(folder, **options)
    try:
        node.start()
    except BaseException:
        node.close()
        raise
    return node
