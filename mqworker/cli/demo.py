"""`mqworker demo`: the whole service at work in a throw-away folder, on the embedded broker, with the battery example.

Runs in the user's terminal and starts the service as a child in a separate session, so that Ctrl-C reaches only this
process, which then stops the service as supervisord would. `demo_run` feeds it and shows its status. The folder is kept
after a successful run, because the last lines printed explain how to inspect it.
"""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from mqworker.address import CallError
from mqworker.cli import output
from mqworker.cli.demo_run import SIGNALS, STAGE, Run, interrupt
from mqworker.cli.options import Failed, Verb
from mqworker.exits import Exit
from mqworker.ipc.spawn import PR_SET_PDEATHSIG, prctl

EXAMPLE = (
    Path(__file__).parent / "templates" / "energy_storage"
)  # a link to the repository's examples, files in a wheel
FILES = ("energy_storage.py", "generate.py", "mqworker.toml")
DRAIN = 10.0  # seconds
PORT = 5002


@click.command(cls=Verb)
@click.option("--messages", "-n", type=click.IntRange(1, 1_000_000), help="Stop after this many messages.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Stop after this many seconds.")
def demo(messages: int | None, seconds: float | None) -> int:
    """Show the service at work. Needs no broker and writes only to one temporary folder.

    Battery schedules for made-up sites, optimised by particle swarm in two Consumers; three messages in every 300 are
    bad on purpose. Runs until Ctrl-C unless limited by an option, then lists the messages that failed.

    Examples:
      mqworker demo
      mqworker demo --messages 300
    """
    if importlib.util.find_spec("numpy") is None:
        raise Failed(
            Exit.USAGE, "the example needs numpy: pip install 'mqworker[examples]', or scripts/setup in a clone"
        )
    for number in SIGNALS:
        signal.signal(number, interrupt)
    folder = Path(tempfile.mkdtemp(prefix="mqworker-demo-"))
    try:
        port = _prepare(folder)
        run = Run(folder, messages)
        with _service(folder) as process:
            run.show(process, port)
            run.feed(process, seconds)
        return run.summary()
    except (Failed, CallError, KeyboardInterrupt):
        log = folder / "mqworker.log"
        if log.exists() and log.stat().st_size:
            output.note(f"the log is in {log}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _prepare(folder: Path) -> int:
    """Copy the example, with two Consumers and a free control port; return the port."""
    for name in FILES:
        shutil.copyfile(EXAMPLE / name, folder / name)
    port = _free_port()
    config = folder / "mqworker.toml"
    text = config.read_text().replace(f"[stages.{STAGE}]\n", f"[stages.{STAGE}]\nconsumers = 2\n", 1)
    text += f'\n[service]\nname = "demo"\ndrain_deadline = {DRAIN:g}\n\n[control]\nport = {port}\n'
    config.write_text(text)
    return port


def _free_port() -> int:
    for port in (PORT, 0):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(trial.getsockname()[1])
    raise Failed(Exit.INTERNAL, "there is no free port on 127.0.0.1")


@contextmanager
def _service(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the service; it drains at the end, and never outlives this process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MQWORKER_")}
    with (folder / "mqworker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mqworker", "run", "--config", "mqworker.toml"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509 - this process has one thread
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(DRAIN + 10)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)
