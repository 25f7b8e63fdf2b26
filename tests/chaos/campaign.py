"""The campaign: rounds of faults on each broker, each followed by the check of everything.

`under_fire` is the scenario of a round; what comes when is drawn from the seed, so a seed names a run.
"""

import random
import time
from pathlib import Path
from typing import Any

from tests.chaos.checker import check
from tests.chaos.embedded import Embedded
from tests.chaos.faults import Faults, plan
from tests.chaos.rabbit import Rabbit
from tests.chaos.records import Round
from tests.chaos.round import Setting, play, say
from tests.chaos.source import Source

KILLS = "consumer-kills"  # the name of that round
GAP = 0.35  # mean seconds between faults


def under_fire(faults: Faults, kind: str, seconds: float, chance: random.Random) -> None:
    """Inject faults for this many seconds."""
    end = time.monotonic() + seconds
    for fault in plan(kind, chance):
        if time.monotonic() >= end:
            return
        faults.inject(fault)
        time.sleep(min(3.0, chance.expovariate(1 / GAP)))


def one_round(
    broker: Any, kind: str, name: str, seed: int, seconds: float, settle: float, work: float = 0.001, **setting: Any
) -> tuple[Round, list[str]]:
    """Play one round and check it; `setting`: more about it."""
    chance = random.Random(f"{name}.{seed}.faults")

    def scenario(faults: Faults, _source: Source) -> None:
        under_fire(faults, kind, seconds, chance)

    say(f"{name}: {kind}, {seconds:.0f} s of faults, seed {seed}")
    return _checked(broker, kind, Setting(name, seed, scenario, settle=settle, seconds=work, **setting))


def many_kills(broker: Any, seed: int, count: int, **setting: Any) -> tuple[Round, list[str]]:
    """Kill this many Consumers under load, one after another, and examine what is left; `setting`: more about it."""

    def scenario(faults: Faults, _source: Source) -> None:
        for _ in range(count):
            faults.kill_worker()

    say(f"{KILLS}: {count} Consumers, seed {seed}")
    return _checked(
        broker, "classic", Setting(KILLS, seed, scenario, poison=0, killers=False, operator=False, **setting)
    )


def _checked(broker: Any, kind: str, setting: Setting) -> tuple[Round, list[str]]:
    name = setting.name
    round_ = play(broker, kind, setting)
    problems = check(round_)
    say(f"{name}: {summary(round_)}" + ("" if problems else ", every promise was kept"))
    for problem in problems:
        say(f"{name}: BROKEN {problem}")
    return round_, problems


def summary(round_: Round) -> str:
    """Return one line about a round."""
    lost = round_.confirmed - {outcome.id for outcome in round_.outcomes}
    extra = len(round_.outcomes) - len({outcome.id for outcome in round_.outcomes})
    rate = len(round_.confirmed) / max(round_.ended - round_.began, 1)
    return (
        f"{len(round_.confirmed)} messages ({rate:.0f}/s), {len(round_.faults)} faults, "
        f"{len(lost)} lost, {extra} duplicates"
    )


def broker_for(kind: str, folder: Path) -> Any:
    """Return a broker of this kind, started."""
    if kind == "sqlite":
        return Embedded(folder / "embedded")
    return Rabbit(folder / kind, foreign=True) if kind == "foreign" else Rabbit(folder / "node")
