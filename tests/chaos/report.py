"""The campaign's figures for docs/guarantees.md: one Markdown fragment, and the same as JSON.

Pure except for the writing. Recovery times come from the handler's journal, the only clock that does not depend on what
the service reports about itself.
"""

import bisect
import json
import statistics
from collections import Counter, defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.chaos import logcheck
from tests.chaos.attribution import causes, repeated
from tests.chaos.campaign import KILLS
from tests.chaos.checker import answered
from tests.chaos.records import Round

WINDOW = 1.0  # seconds over which a rate is taken
GIVE_UP = 60.0  # seconds: a rate that did not come back until then is not counted as a recovery


def quantiles(values: list[float]) -> str:
    """Return median, 99th percentile and maximum in seconds."""
    if not values:
        return "none"
    ordered = sorted(values)
    high = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return f"{statistics.median(ordered):.3f} / {high:.3f} / {ordered[-1]:.3f} s ({len(ordered)})"


def noticed(round_: Round) -> list[float]:
    """Return the times from a Consumer's death until its Producer has dispatched the rest of its chunk again."""
    ended: dict[str, list[float]] = defaultdict(list)  # of each pid: several Consumers of a long round may have had it
    for event in logcheck.events(round_.log):
        if event.get("event") == "consumer_ended":
            at = datetime.fromisoformat(str(event["time"])).timestamp() - round_.clock
            ended[str(event.get("consumer_pid"))].append(at)
    found = []
    for fault in round_.faults:
        if fault.kind == "consumer-kill" and (ends := ended[fault.about]):
            nearest = min(ends, key=lambda at: abs(at - fault.start))  # the log's clock is not quite the campaign's
            found.append(max(0.0, nearest - fault.start))
    return found


def rebuilt(round_: Round, kinds: tuple[str, ...]) -> list[float]:
    """Return the times from a Producer's or Service's death to the next tree's first message, without other faults."""
    first: dict[int, float] = {}
    for start in round_.starts:
        first.setdefault(start.pid, start.time)
    births = sorted(first.values())
    found = []
    for index, fault in enumerate(round_.faults):
        at = bisect.bisect(births, fault.start)
        following = round_.faults[index + 1].start if index + 1 < len(round_.faults) else round_.ended
        if fault.kind in kinds and at < len(births) and births[at] < following:
            found.append(births[at] - fault.start)
    return found


def full_rate(round_: Round) -> list[float]:
    """Return the times until the stage, with the broker back, starts 90 % of what it starts in a median second."""
    times = [start.time for start in round_.starts]
    if not times:
        return []
    counts = Counter(int(time) for time in times)
    usual = statistics.median(counts.values())
    found = []
    for fault in round_.faults:
        if fault.kind != "broker-kill":
            continue
        moment = fault.end
        while moment < fault.end + GIVE_UP:
            if bisect.bisect(times, moment + WINDOW) - bisect.bisect(times, moment) >= 0.9 * usual * WINDOW:
                found.append(moment - fault.end)
                break
            moment += 0.1
    return found


def figures(name: str, rounds: list[tuple[Round, list[str]]]) -> dict[str, Any]:
    """Return the row of one kind of broker."""
    faults: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for round_, _ in rounds:
        faults.update(fault.kind for fault in round_.faults)
        for index, count in causes(round_)[0].items():
            reasons[round_.faults[index].kind] += count
    health = [answer.seconds for round_, _ in rounds for answer in answered(round_) if answer.path == "/livez"]
    return {
        "broker": name,
        "messages": sum(len(round_.confirmed) for round_, _ in rounds),
        "lost": sum(len(round_.confirmed - {outcome.id for outcome in round_.outcomes}) for round_, _ in rounds),
        "input acks checked on the wire": sum(round_.acks for round_, _ in rounds),
        "acks before a confirm": sum(
            "before a confirm" in words for round_, _ in rounds for words in round_.violations
        ),
        "duplicates": sum(len(each) - 1 for round_, _ in rounds for each in repeated(round_).values()),
        "duplicates by cause": dict(reasons.most_common()),
        "faults": dict(faults.most_common()),
        "Consumer death to re-dispatch": quantiles([time for each, _ in rounds for time in noticed(each)]),
        "Producer death to working again": quantiles(
            [time for each, _ in rounds for time in rebuilt(each, ("producer-kill",))]
        ),
        "Service death to working again": quantiles(
            [time for each, _ in rounds for time in rebuilt(each, ("service-kill",))]
        ),
        "broker back to 90 % of the rate": quantiles([time for each, _ in rounds for time in full_rate(each)]),
        "/livez": quantiles(health),
        "descriptors and threads, before": _sizes(rounds[0][0], 0),
        "descriptors and threads, after": _sizes(rounds[-1][0], -1),
        "promises broken": [problem for _, problems in rounds for problem in problems],
    }


def _sizes(round_: Round, which: int) -> str:
    if not round_.sizes:
        return "none"
    size = round_.sizes[which]
    return ", ".join(
        f"{kind} {count} and {size.threads[kind]}"
        for kind, count in sorted(size.descriptors.items())
        if kind.startswith("mqw")
    )


def write(path: Path, seed: int, rounds: list[tuple[Round, list[str]]], controls: list[tuple[str, bool, str]]) -> None:
    """Write `path` (Markdown) and the same name with .json."""
    kinds = list(dict.fromkeys(_column(round_) for round_, _ in rounds))
    rows = [figures(kind, [each for each in rounds if _column(each[0]) == kind]) for kind in kinds]
    seen = [{"control": name, "seen": passed, "words": words} for name, passed, words in controls]
    path.with_suffix(".json").write_text(json.dumps({"seed": seed, "brokers": rows, "controls": seen}, indent=2) + "\n")
    lines = [f"Seed {seed}. Times are median / 99th percentile / longest (how many).", ""]
    if rows:
        lines += ["| | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
        for key in list(rows[0])[1:]:
            lines.append(f"| {key} | " + " | ".join(_cell(row[key]) for row in rows) + " |")
        lines.append("")
    if seen:
        lines += ["| broken on purpose | seen by the checker |", "|---|---|"]
        lines += [f"| {each['control']} | {'yes' if each['seen'] else 'NO'}: {each['words']} |" for each in seen]
    path.write_text("\n".join(lines) + "\n")


def _column(round_: Round) -> str:
    return f"{round_.broker}, Consumers killed" if round_.name == KILLS else round_.broker


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(value) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
