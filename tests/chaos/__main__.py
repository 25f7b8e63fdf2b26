"""`scripts/chaos`: see --help."""

import argparse
import contextlib
import pickle
import random
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.chaos import report
from tests.chaos.campaign import broker_for, many_kills, one_round
from tests.chaos.controls import ALL as ALL_CONTROLS
from tests.chaos.controls import QUICK, control
from tests.chaos.records import Round
from tests.chaos.round import say

BROKERS = ("classic", "quorum", "sqlite")
FOREIGN = "foreign"  # exchanges, policies and a small frame that others have chosen; only on request
QUICK_SECONDS = {"classic": 15.0, "quorum": 10.0, "sqlite": 5.0, FOREIGN: 45.0}
ROUND = 45.0  # seconds of faults in a round of a release campaign


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "scripts/chaos",
        description="Proves that nothing is lost, or shows what is.",
        epilog="scripts/chaos --shared --help: kills around a shared object, whether each effect happened once."
        " scripts/chaos --ordered --help: whether a stage keeps its order."
        " scripts/chaos --sources --help: whether every row of a source arrives.",
    )
    parser.add_argument("--quick", action="store_true", help="about two minutes (the default)")
    parser.add_argument("--seconds", type=float, help="of faults in each round of a quick campaign (default 5 to 45)")
    parser.add_argument("--work", type=float, default=0.001, help="mean seconds that a message takes (default 0.001)")
    parser.add_argument(
        "--warm-up", type=float, default=2.0, help="seconds under load before the first fault (default 2)"
    )
    parser.add_argument("--release", action="store_true", help="for --minutes, with every negative control")
    parser.add_argument("--minutes", type=float, default=20.0, help="of a release campaign (default 20)")
    parser.add_argument("--kills", type=int, default=2000, help="Consumers killed in a last round of it (default 2000)")
    parser.add_argument("--only-kills", action="store_true", help="nothing but that last round")
    parser.add_argument("--seed", type=int, help="repeats a run's choice of faults (default: any)")
    parser.add_argument("--broker", choices=(*BROKERS, FOREIGN, "all"), default="all")
    parser.add_argument("--controls", choices=("yes", "no", "only"), default="yes", help="negative controls")
    parser.add_argument("--seats", type=int, default=1, help="messages that one Consumer works on at once (default 1)")
    parser.add_argument("--tasks", action="store_true", help="as coroutines; otherwise in threads")
    parser.add_argument("--report", type=Path, help="write this Markdown file, and the same as .json beside it")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep all that was noted of each round, pickled")
    return parser.parse_args()


def main() -> int:
    """Run the campaign; 0 when every promise was kept and every control failed as it must."""
    told = arguments()
    seed = told.seed if told.seed is not None else random.SystemRandom().randrange(1_000_000)
    kinds = BROKERS if told.broker == "all" else (told.broker,)
    say(f"seed {seed}")
    rounds: list[tuple[Round, list[str]]] = []
    controls: list[tuple[str, bool, str]] = []
    interrupted = False
    for number in (signal.SIGTERM, signal.SIGINT):  # a job in the background ignores the second by default
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="mqw-chaos-") as folder, contextlib.ExitStack() as stack:
        brokers: dict[str, Any] = {}

        def broker(kind: str) -> Any:
            name = kind if kind in ("sqlite", FOREIGN) else "rabbit"
            if name not in brokers:
                brokers[name] = broker_for(kind, Path(folder))
                stack.callback(brokers[name].close)
            return brokers[name]

        seats = {"seats": told.seats, "tasks": told.tasks}
        try:
            if told.only_kills:
                rounds.append(many_kills(broker("classic"), seed, told.kills, **seats))
            elif told.controls != "only":
                for kind, name, number, seconds in _schedule(told, kinds):
                    settle = 10 if told.release else 3
                    more = {**seats, "work": told.work, "warm_up": told.warm_up}
                    done = one_round(broker(kind), kind, name, seed + number, seconds, settle, **more)
                    rounds.append(done)
                    if told.keep:
                        told.keep.mkdir(parents=True, exist_ok=True)
                        (told.keep / f"{name}.{seed}.pickle").write_bytes(pickle.dumps(done[0]))
                if told.release and told.kills and kinds != ("sqlite",):
                    rounds.append(many_kills(broker("classic"), seed, told.kills, **seats))
            if told.controls != "no" and not told.only_kills:
                names = () if kinds == ("sqlite",) else ALL_CONTROLS if told.release else QUICK
                controls.extend((name, *control(broker("classic"), name, seed)) for name in names)
        except KeyboardInterrupt:
            interrupted = True
            say("interrupted")
    if told.report:
        report.write(told.report, seed, rounds, controls)
    good = all(not problems for _, problems in rounds) and all(passed for _, passed, _ in controls)
    if not interrupted:
        say("nothing was lost, every promise was kept" if good else "FAILED")
    return 130 if interrupted else 0 if good else 1


def _schedule(told: argparse.Namespace, kinds: tuple[str, ...]) -> list[tuple[str, str, int, float]]:
    """Return (broker, name, number, seconds of faults) of each round."""
    if not told.release:
        return [(kind, f"quick-{kind}", 0, told.seconds or QUICK_SECONDS[kind]) for kind in kinds]
    count = max(len(kinds), round(told.minutes * 60 / (ROUND + 25)))
    return [(kinds[n % len(kinds)], f"round-{n}-{kinds[n % len(kinds)]}", n, ROUND) for n in range(count)]


if __name__ == "__main__":
    sys.exit(main())
