"""`scripts/bench`: speed, on a RabbitMQ node of its own; nothing else should run on the machine meanwhile.

Without --against: beside a bare pika relay, peers and other references. With --against REF: the working tree beside a
commit of this repository (a branch, tag or hash), by the dependencies installed now; exit code 1 if a median is below
0.97. Ratios are taken within a round, and above 1 is better. A round runs each contestant twice, in mirrored order
(A B B A, then B A A B). Every result is checked. Progress goes to stderr, the outcome to stdout. Ctrl-C and TERM end
everything that was started and remove what was written; --json keeps the cases that were complete. A case that fails
is given up, the others go on, and the exit code is 1.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pika.exceptions import AMQPError

from tests.benchmarks import cases, code, saved
from tests.benchmarks.bench import BLOCKING, DRAMATIQ, Bench, Sizes
from tests.benchmarks.cases.ab_same import RELAY, UNSTAMPED
from tests.benchmarks.contestants import peers
from tests.benchmarks.figures import Case, table
from tests.benchmarks.queues import Queues
from tests.benchmarks.rounds import TimeLeft, run
from tests.support.rabbitmq import RabbitNode, temporary

EXAMPLES = """\
examples:
  scripts/bench                              everything; hours
  scripts/bench --quick                      three minutes: (a), (b) and (e), beside the relay and Dramatiq
  scripts/bench --cases ce --rounds 3        two cases
  scripts/bench --json now.json              keep the run
  scripts/bench --quick --compare now.json   beside a run that was kept, of this machine; exit code 1 below 0.97
  scripts/bench --against main --cases ab    the working tree beside a commit, in the same rounds

cases:
"""
ONLY = RELAY, UNSTAMPED, DRAMATIQ, BLOCKING  # with --quick
PEERS = "celery", "dramatiq", "faststream", "aio-pika"  # packages whose versions are kept with a run
QUICK = Sizes(rounds=2, small=25_000, peers=8_000, trips=300)


class Said:
    """Progress on stderr; what runs now is shown on a terminal only, in one line."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()

    def line(self, words: str) -> None:
        """Report something that stays."""
        print(("\r\x1b[K" if self._live else "") + words, file=sys.stderr, flush=True)

    def now(self, words: str) -> None:
        """Report what runs now."""
        if self._live:
            print(f"\r\x1b[K{words}", end="", file=sys.stderr, flush=True)


SAID = Said()


def main() -> int:
    """Run what is asked for; returns the exit code."""
    parser, options = _options()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    head: dict[str, Any] = {"letters": options.cases, "sizes": options.sizes._asdict(), "given_up": []}
    try:
        then = _kept(parser, options.compare) if options.compare else None
        if options.against:
            head |= {"against": options.against, "commit": code.commit(options.against)}
        with tempfile.TemporaryDirectory(prefix="mqw-bench-") as folder:
            document, measured = _measured(options, head, Path(folder))
    except (code.NoSuchCommitError, saved.MachineDiffersError) as error:
        parser.error(str(error))
    print(table(measured))
    slower = bool(options.against) and not all(case.met() for case in measured)
    if then is not None:
        lines = saved.compared(document, then)
        print(f"\nbeside the run of {then['date']} ({then['versions'].get('mqworker', '')}):\n{saved.words(lines)}")
        if other := saved.other_sizes(document, then):
            print(f"measured with other sizes then, which may be the reason for a difference: {other}")
        slower = slower or any(line.slower for line in lines)
    if head["given_up"]:
        print("\ngiven up: " + "; ".join(head["given_up"]))
    return int(slower or bool(head["given_up"]))


def _kept(parser: argparse.ArgumentParser, path: Path) -> dict[str, Any]:
    """Return a run that was kept; ends the command if there is none, or it is of another machine."""
    try:
        then = saved.load(path)
        saved.compared({"machine": saved.machine(), "cases": []}, then)  # before hours are spent
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        parser.error(f"--compare {path}: not a run that --json has written: {error!r}")
    return then


def _options() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        "scripts/bench",
        description=__doc__,
        epilog=EXAMPLES + cases.words(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help=f"only ({', '.join(cases.LETTERS_QUICK)}), briefly")
    parser.add_argument("--against", metavar="REF", help="compare with the code of this commit")
    parser.add_argument("--cases", metavar="LETTERS", help="only these of the cases below (default: all)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the whole run into a file")
    parser.add_argument("--compare", metavar="FILE", type=Path, help="compare with a run that --json has written")
    sizes = parser.add_argument_group("how much is measured")
    for name, what in (
        ("rounds", "rounds of each case"),
        ("small", "messages of one run of (a); (g), (k), (l), (m) take a quarter"),
        ("peers", "messages of one run of a peer in (a)"),
        ("work", "seconds of one run of (c), (d), (n) and the orders of (j)"),
        ("large", "MB of one run of (f)"),
        ("trips", "messages of one run of (e)"),
        ("calls", "calls of each process in one run of (j)"),
        ("lines", "lines of a file in one run of (j)"),
        ("programs", "lines of the file of one run of (o)"),
        ("waiting", "messages of the largest backlog of (h) and (l)"),
    ):
        default = getattr(Sizes(), name)
        names = ["--small", "--messages"] if name == "small" else [f"--{name}"]
        sizes.add_argument(*names, dest=name, type=type(default), help=f"{what} (default: {default:,})")
    options = parser.parse_args()
    asked = {name: getattr(options, name) for name in Sizes._fields if getattr(options, name) is not None}
    options.sizes = (QUICK if options.quick else Sizes())._replace(**asked)
    if any(size <= 0 for size in options.sizes):
        parser.error("a size is above 0")
    known = cases.LETTERS_AGAINST if options.against else cases.LETTERS_QUICK if options.quick else cases.LETTERS
    options.cases = options.cases or known
    if not set(options.cases) <= set(known):
        parser.error(f"--cases: the letters are {known}")
    return parser, options


def _measured(options: argparse.Namespace, head: dict[str, Any], folder: Path) -> tuple[dict[str, Any], list[Case]]:
    """Measure all; returns the run as plain data and its cases."""
    codes = {"now" if options.against else "mqworker": code.present(folder / "now")}
    if options.against:
        codes[options.against] = code.checkout(head["commit"], folder / "ref")
    installed = {} if options.against else _peers()
    node = temporary(folder / "node")
    try:
        wanted = frozenset(ONLY) if options.quick else None
        bench = Bench(Queues(node.url()), codes, installed, options.sizes, folder, wanted)
        trials = cases.trials(bench, options.cases)
        broker = _broker(node)
        known = saved.installed(PEERS) if installed else {}
        measured: list[Case] = []
        document = saved.document(measured, broker, known, **head)
        left = TimeLeft(trials)
        for trial in trials:
            try:
                run(trial, left, SAID)
            except (AssertionError, RuntimeError, OSError, subprocess.SubprocessError, AMQPError) as error:
                SAID.line(f"({trial.letters}) {trial.title}: given up: {error!r}")  # the others go on
                head["given_up"].append(trial.title)
            else:
                measured += trial.cases
            document = saved.document(measured, broker, known, **head)
            if options.json:
                options.json.write_text(json.dumps(document, indent=1) + "\n")
        return document, measured
    finally:
        node.close()


def _peers() -> dict[str, Any]:
    """Return the peers that are installed, and report if they are not."""
    found = dict(peers.available())
    if not found:
        SAID.line("Celery, Dramatiq, FastStream and the blocking worker are not installed: scripts/setup --benchmarks")
    return found


def _broker(node: RabbitNode) -> dict[str, str]:
    """Return the versions of the broker."""
    rabbit, erlang = (node.eval(ask).strip('"') for ask in ("rabbit_misc:version()", "erlang:system_info(otp_release)"))
    return {"RabbitMQ": rabbit, "Erlang": erlang}


def _end(number: int, _frame: object) -> None:
    """Leave through every `finally`, which a second signal must not cut short."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    SAID.line("scripts/bench: cleaning up ...")
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
