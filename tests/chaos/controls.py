"""Negative controls: each promise is broken on purpose, and the checker must notice it (tests/chaos/broken).

For each there is one short scenario that the sound build passes and the broken one fails, on a classic queue.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.checker import check
from tests.chaos.faults import Faults
from tests.chaos.round import Setting, play, say
from tests.chaos.source import Source

BROKEN = Path(__file__).parent / "broken"


def _calm(_faults: Faults, source: Source) -> None:
    """Load and nothing else."""
    end = time.monotonic() + 10
    while not source.used_up and time.monotonic() < end:
        time.sleep(0.05)


def _several(kind: str, times: int, pause: float = 0.3) -> Callable[[Faults, Source], None]:
    """One kind of fault, several times."""

    def scenario(faults: Faults, _source: Source) -> None:
        for _ in range(times):
            faults.inject(kind)
            time.sleep(pause)

    return scenario


@dataclass(frozen=True)
class Control:
    """One control; `both` is what is done to the sound build as well."""

    scenario: Callable[[Faults, Source], None]
    most: int = 1_000_000
    patience: float = 20.0
    both: str = ""
    seconds: float = 0.001
    queue_size: int = 64  # messages in a chunk at most


CONTROLS = {
    "ack-before-confirm": Control(_calm, most=1200),
    "mandatory-off": Control(_several("output-unbound", 2)),
    "epochs-off": Control(_several("reset-all", 3, 1.2), patience=12.0),
    "deadlines-off": Control(_several("long-halt", 1)),
    "shared-queue": Control(_several("consumer-kill", 16, 0.5), seconds=0.02),
    "put-ahead": Control(_several("consumer-kill", 16, 0.5), both="slow-task-done", patience=30.0, queue_size=1),
}
QUICK = ("ack-before-confirm", "mandatory-off")
ALL = tuple(CONTROLS)


TRIES = 4  # of a broken build: its fault has to meet a delivery at the right moment


def control(broker: Any, name: str, seed: int) -> tuple[bool, str]:
    """Return whether the checker distinguishes the broken build from the sound one, and its report on the former."""
    told = CONTROLS[name]

    def problems(build: str, broken: str, number: int) -> list[str]:
        setting = Setting(
            f"control-{name}-{build}",
            number,
            told.scenario,
            most=told.most,
            seconds=told.seconds,
            backlog=600,
            poison=0.0,
            killers=False,
            operator=False,
            settle=1.5,
            patience=told.patience,
            warm_up=1.0,
            environment={
                "PYTHONPATH": str(BROKEN),
                "CHAOS_BROKEN": broken,
                "MQWORKER_STAGES__WORK__QUEUE_SIZE": str(told.queue_size),
            },
        )
        return check(play(broker, "classic", setting))

    sound = problems("sound", told.both, seed)
    for problem in sound:
        say(f"control {name}: the sound build failed: {problem}")
    tries = (problems("broken", ",".join(filter(None, (told.both, name))), seed + number) for number in range(TRIES))
    seen = next(filter(None, tries), [])
    numbers = sorted({problem.partition(" ")[0].rstrip(",") for problem in seen}, key=int)
    words = f"by invariants {', '.join(numbers)}: {seen[0][:200]}" if seen else "the checker saw nothing"
    passed = not sound and bool(seen)
    say(f"control {name}: {'seen' if passed else 'FAILED'} {words}")
    return passed, words
