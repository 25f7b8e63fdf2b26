"""What `mqworker demo` does while its service runs: sends messages, shows the status, accounts for every message.

Runs in the demo's process, one thread. Calls the service only over its unix socket; reads the counts from the broker's
file once the service has ended. Signal handlers only set a flag, so that no message is sent without being counted.
"""

import importlib.util
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click

from mqworker.address import Address, CallError
from mqworker.cli import output
from mqworker.cli.options import Failed, shell_command, stage_path
from mqworker.client import API, Client
from mqworker.exits import Exit

STAGE = "energy"
BATCH = 300  # messages of which BAD are bad
BAD = 3
RATE = 5.0  # messages a second after the first batch
BURST = 25  # messages sent between two status requests
START = 60.0  # seconds within which the service must answer
STUCK = 120.0  # seconds without any progress
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """Treat any of SIGNALS as Ctrl-C."""
    raise KeyboardInterrupt


class Run:
    """What was sent, and what became of it."""

    def __init__(self, folder: Path, messages: int | None) -> None:
        self._folder = folder
        self._messages = messages
        self._samples = _samples(folder, messages)
        self._labels: dict[str, str] = {}  # of the bad messages, by message id
        self._client = Client(Address(socket=str(folder / ".mqworker" / "control.sock")), 15.0)
        self._progress = output.Progress()
        self._began = time.monotonic()
        self._sent = 0
        self._stop = False

    def show(self, process: subprocess.Popen[bytes], port: int) -> None:
        """Wait until the service answers, and print what runs where."""
        self._await_service(process)
        url = f"http://127.0.0.1:{port}"
        for label, text in {
            "demo": "battery schedules of made-up sites, optimised by particle swarm in 2 Consumers",
            "service": f"pid {process.pid}, in the throw-away folder {self._folder}",
            "broker": "embedded (SQLite in that folder); for RabbitMQ set broker.url",
            "control": f"{url}    try: curl {url}{API}/status",
            "page": f"{url}/ui/",
            "log": f"tail -f {self._folder}/mqworker.log",
            "stop": "by itself, or Ctrl-C" if self._messages else "Ctrl-C",
        }.items():
            click.echo(f"{label:8} {text}")

    def _await_service(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + START
        while True:
            self._check_alive(process)
            try:
                self._client.request("GET", "/readyz")
            except CallError as error:
                if time.monotonic() > end:
                    raise Failed(Exit.INTERNAL, f"the service is not ready after {START:g} s: {error}") from None
                time.sleep(0.05)
            else:
                return

    def _check_alive(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            tail = (self._folder / "mqworker.log").read_text(errors="replace").splitlines()[-5:]
            raise Failed(Exit.INTERNAL, "\n".join([f"the service ended with code {process.returncode}:", *tail]))

    def feed(self, process: subprocess.Popen[bytes], seconds: float | None) -> None:
        """Send messages and show the status, until done or told to stop."""
        end = float("inf") if seconds is None else time.monotonic() + seconds
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        settled, moved = -1, time.monotonic()
        with self._client:
            self._first()
            while time.monotonic() < end and not self._stop:
                self._check_alive(process)
                self._send_due()
                now, line = self._poll()
                if now != settled:
                    settled, moved = now, time.monotonic()
                over = self._messages is not None and settled >= self._messages
                self._progress.update(line, now=over)
                if over:
                    return
                if time.monotonic() - moved > STUCK:
                    raise Failed(Exit.INTERNAL, f"no progress for {STUCK:g} s: {line}")
                time.sleep(0.1)
        output.note("\nstopping: what is in hand is finished, the rest goes back to the broker")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal, so that counting is never interrupted; end at the second."""
        if self._stop:
            interrupt(number, frame)
        self._stop = True

    def _first(self) -> None:
        """Send one message and show its result."""
        sample = next(self._samples)
        if sample.label.startswith("bad"):
            self._send(sample, "")
            return
        began = time.monotonic()
        result = self._send(sample, "?wait=10").json()["result"]
        took = output.seconds(time.monotonic() - began)
        cost = f"{result['cost_with']:.2f} instead of {result['cost_without']:.2f}"
        click.echo(f"first    {result['site']} ({sample.label}) pays {cost} for the day; answered after {took}")

    def _send_due(self) -> None:
        due = self._messages if self._messages is not None else BATCH + int(RATE * (time.monotonic() - self._began))
        for _ in range(min(BURST, due - self._sent)):
            if self._stop:
                return
            self._send(next(self._samples), "")

    def _send(self, sample: Any, query: str) -> Any:
        path = f"{API}{stage_path(STAGE, '/messages')}{query}"
        answer = self._client.request("POST", path, sample.body, "application/json")
        self._sent += 1
        if sample.label.startswith("bad"):
            self._labels[answer.json()["message_id"]] = sample.label
        return answer

    def _poll(self) -> tuple[int, str]:
        view = self._client.get(stage_path(STAGE))
        actual = view["actual"]
        if actual is None:
            return 0, f"{self._sent} sent, the stage is {view['state']}: {view['problem']}"
        count = actual["counters"]
        in_hand = actual["held"] + actual["dispatched"] + actual["settling"]
        p95 = output.seconds(actual["p95"]) if actual["p95"] else "-"
        return count["result"] + count["dropped"] + count["dead"], (
            f"{actual['rate']:5.1f}/s   p95 {p95:>7}   done {count['result']}   failed {count['dead']}"
            f"   in hand {in_hand}   backlog {'?' if actual['backlog'] is None else actual['backlog']}"
        )

    def summary(self) -> int:
        """Count what the broker's file holds now, list the dead letters, and print what to try next."""
        self._progress.done()
        counts, dead = _count(self._folder)
        waiting, done = counts["input"], counts["output"]
        good = done + len(dead) + waiting == self._sent and (self._messages is None or waiting == 0)
        took = output.seconds(time.monotonic() - self._began)
        missing = "all accounted for" if good else "they do NOT add up"
        left = f", {waiting} left in the queue" if waiting else ""
        click.echo(f"\n{self._sent} messages in {took}: {done} done, {len(dead)} failed{left}: {missing}.")
        for letter in dead:
            label = self._labels.get(letter["message_id"] or "", "not sent as a bad message")
            why = output.clean(letter.get("message") or letter.get("error_type") or "")
            click.echo(f"  {letter['message_id']}  {letter.get('reason')} ({label}): {why}")
        mqworker = shell_command()
        first = f" ; then, in another terminal: {mqworker} dlq show {dead[0]['id']}" if dead else ""
        click.echo(f"\nLook further:  cd {self._folder} && {mqworker} run{first}")
        click.echo(f"Remove it:     rm -r {self._folder}")
        click.echo(f"Your own:      {mqworker} init primes")
        return Exit.OK if good else Exit.INTERNAL


def _samples(folder: Path, messages: int | None) -> Iterator[Any]:
    """Yield batches of requests, some of them bad, without end; each of `messages` requests if given."""
    spec = importlib.util.spec_from_file_location("generate", folder / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    seed = 0
    while True:
        yield from generate.requests(messages or BATCH, seed=seed, bad=BAD)
        seed += 1


def _count(folder: Path) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Read from the broker's file how many messages each queue of the stage holds, and its dead letters."""
    import asyncio

    from mqworker.broker_admin import dead_letters
    from mqworker.brokers import open_admin
    from mqworker.config.load import load

    config = load(folder / "mqworker.toml", {}).config
    stage = config.stages[STAGE]
    assert stage.output is not None
    queues = {"input": stage.input.queue, "output": stage.output.queue}

    async def read() -> tuple[dict[str, int], list[dict[str, Any]]]:
        admin = open_admin(config.broker)
        try:
            found = {role: await admin.queue(name, 10.0) for role, name in queues.items()}
            letters = await admin.peek(stage.dead, 10_000, 10.0)
        finally:
            await admin.close()
        counts = {role: 0 if info is None else info.messages for role, info in found.items()}
        return counts, [dead_letters.describe(letter.properties, letter.body) for letter in letters]

    return asyncio.run(read())
