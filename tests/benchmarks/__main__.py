"""`scripts/bench`: speed, on a RabbitMQ node of its own; nothing else should run on the machine meanwhile.

Without --against: beside a bare pika relay and a process pool. With --against REF: the working tree beside a commit of
this repository (a branch, tag or hash), by the dependencies installed now; exit code 1 if a median is below 0.97.
Ratios are taken within a round, and above 1 is better. Progress goes to stderr, the outcome to stdout. Ctrl-C and TERM
end everything that was started and remove what was written.
"""

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import code, compare
from tests.benchmarks.figures import Case
from tests.benchmarks.queues import Queues
from tests.support.rabbitmq import temporary


def main() -> int:
    """Run what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(
        "scripts/bench",
        description=__doc__,
        epilog=compare.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--against", metavar="REF", help="compare with the code of this commit")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=25_000, help="messages of one run of (a), (b), (i), (j), (m)")
    parser.add_argument("--heavy", type=int, default=500, help="messages of one run of (c) and (f)")
    parser.add_argument("--large", type=int, default=256, help="MB of one run of (g) and (h)")
    parser.add_argument("--calls", type=int, default=20_000, help="calls of each process in one run of (d) and (e)")
    parser.add_argument("--lines", type=int, default=20_000, help="lines of the file of one run of (k)")
    parser.add_argument("--programs", type=int, default=2_000, help="lines of the file of one run of (l)")
    parser.add_argument("--cases", metavar="LETTERS", help="only these of the cases below (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON document with every round")
    options = parser.parse_args()
    known = compare.CASES_AGAINST if options.against else compare.CASES
    options.cases = options.cases or known
    if not set(options.cases) <= set(known):
        parser.error(f"--cases: the letters are {known}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    head = {}
    try:
        if options.against:
            head = {"against": options.against, "commit": code.commit(options.against)}
        with tempfile.TemporaryDirectory(prefix="mqw-bench-") as folder:
            cases = _measure(options, head.get("commit", ""), Path(folder))
    except code.NoSuchCommitError as error:
        parser.error(str(error))
    if options.json:
        print(json.dumps(head | {"cases": [case.document() for case in cases]}, indent=2))
    else:
        print("\n".join(case.words() for case in cases))
    return int(bool(options.against) and not all(case.met() for case in cases))


def _measure(options: argparse.Namespace, commit: str, folder: Path) -> list[Case]:
    now = code.present(folder / "now")
    codes = {"now": now} | ({options.against: code.checkout(commit, folder / "ref")} if commit else {})
    sizes = compare.Sizes(
        *(options.rounds, options.messages, options.heavy, options.large, options.calls),
        *(options.lines, options.programs, options.cases),
    )
    node = temporary(folder / "node")
    try:
        queues = Queues(node.url())
        if commit:
            return compare.against(queues, codes, sizes, _say)
        return compare.references(queues, now, sizes, _say)
    finally:
        node.close()


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _end(number: int, _frame: object) -> None:
    """Leave through every `finally`, which a second signal must not cut short."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    _say("scripts/bench: cleaning up ...")
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
