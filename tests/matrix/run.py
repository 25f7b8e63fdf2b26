"""`scripts/matrix`: kill or stop every process at every step of a delivery's life, and count what is lost and repeated.

Runs the benches in worker processes of its own, each with its own broker and service, tells progress on stderr, prints
the tables on stdout and puts them into `--report FILE` (between its markers when it has them). Ends with 0 when nothing
was lost, invented or dead, repeats stayed within the promise and everything came to rest; else with 1. SIGTERM and
SIGINT end it and all of these, also while they are cleaned up.
"""

import argparse
import sys
import time
from pathlib import Path

from pika.exceptions import AMQPError

from tests.matrix import report
from tests.matrix.bench import Account, Bench, Kind, Outside, Stepped
from tests.matrix.cells import BROKERS, RANDOM, Cell, cells
from tests.matrix.workers import Failure, run_all


def work(broker: str, chosen: list[Cell], times: int, seed: int, kind: Kind) -> dict[tuple[str, Cell], Account]:
    """Run one bench, in a separate process."""
    made: type[Bench] = Outside if chosen[0].target in RANDOM else Stepped
    accounts: dict[tuple[str, Cell], Account] = {}
    with made(broker, seed, kind) as bench:
        for cell in chosen:
            began = time.monotonic()
            try:
                account = bench.run(cell, times)
            except AMQPError as error:  # the cells so far still count; the others are told as not run
                print(f"{broker} {cell}: the harness lost its broker: {error!r:.200}", file=sys.stderr, flush=True)
                break
            accounts[broker, cell] = account
            took = time.monotonic() - began
            words = f"{broker} {cell}: {account.lost} lost, {account.repeats} repeated of {account.sent}"
            words += f", {account.dead} dead" if account.dead else ""
            print(f"{words}; {took / times:.1f} s a shot {account.trouble}", file=sys.stderr, flush=True)
            if account.trouble:
                break
    return accounts


def benches(chosen: list[tuple[str, Cell]]) -> list[tuple[str, list[Cell]]]:
    """Return the cells that share a broker and a service; the slow ones first."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for broker, cell in chosen:
        group = "outside" if cell.target in RANDOM else "broker" if cell.target == "broker" else "processes"
        groups.setdefault((group, broker), []).append(cell)
    return [(broker, groups[group, broker]) for group, broker in sorted(groups)]


def main(arguments: list[str]) -> int:
    """Execute the command line."""
    parser = argparse.ArgumentParser(prog="scripts/matrix", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--broker", choices=[*BROKERS, "all"], default="all")
    parser.add_argument("--times", type=int, default=5, metavar="N", help="shots of each cell (5)")
    parser.add_argument("--cell", action="append", default=[], help="such as producer-kill-acked, or its beginning")
    parser.add_argument("--report", type=Path, metavar="FILE", help="put the tables there too, as Markdown")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of occurrences and random times (1)")
    parser.add_argument("--jobs", type=int, default=3, metavar="N", help="benches at the same time (3)")
    parser.add_argument("--seats", type=int, default=1, metavar="N", help="messages that one Consumer works on at once")
    parser.add_argument("--tasks", action="store_true", help="as coroutines; otherwise in threads")
    options = parser.parse_args(arguments)
    brokers = BROKERS if options.broker == "all" else (options.broker,)
    prefixes = tuple(options.cell) or ("",)
    chosen = [(broker, cell) for broker in brokers for cell in cells(broker) if str(cell).startswith(prefixes)]
    if not chosen:
        parser.error(f"no cell begins so; there are {', '.join(map(str, cells('classic')))}")
    began = time.monotonic()
    accounts: dict[tuple[str, Cell], Account] = {}
    kind = Kind(options.seats, options.tasks)
    calls = [(broker, group, options.times, options.seed, kind) for broker, group in benches(chosen)]
    for found in run_all(work, calls, options.jobs):
        if isinstance(found, Failure):  # its cells are told as not run; those of the other benches count
            print(f"a bench ended early: {found.why}", file=sys.stderr, flush=True)
        else:
            accounts |= found
    text = report.markdown(accounts, options.times, options.seed, time.monotonic() - began)
    print(text)
    if options.report:
        report.put(options.report, text)
    failures = report.failures(accounts, set(chosen))
    print(*failures, sep="\n", file=sys.stderr)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
