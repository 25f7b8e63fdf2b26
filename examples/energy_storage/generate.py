"""Generates requests for the example: made-up but realistic sites, days and tariffs, a few of them bad on purpose.

Needs only the standard library. `mqworker demo` publishes what `requests` yields; from a shell,
`python generate.py 300 > requests.jsonl` writes good requests, one per line, for `mqworker send`.
"""

import json
import math
import random
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

DAYS = ("winter weekday", "summer weekday", "winter weekend", "summer weekend")
TARIFFS = ("time-of-use", "hourly", "quarter-hourly")
FAULTS = ("not JSON", "no tariff", "final charge out of reach")


class Sample(NamedTuple):
    """A message body and a short label; that of a bad one begins with "bad: "."""

    body: bytes
    label: str


def requests(n: int, seed: int = 0, bad: int = 3) -> Iterator[Sample]:
    """Yield `n` samples, `bad` of them with one of `FAULTS` in turn; the same arguments give the same samples."""
    rng = random.Random(seed)  # noqa: S311 - test data, not a secret
    faulty = sorted(rng.sample(range(n), min(bad, n)))
    for number in range(n):
        day, tariff = rng.choice(DAYS), rng.choice(TARIFFS)
        request = site(number, day, tariff, rng)
        if number in faulty:
            fault = FAULTS[faulty.index(number) % len(FAULTS)]
            yield Sample(spoil(request, fault), f"bad: {fault}")
        else:
            yield Sample(json.dumps(request).encode(), f"{day}, {tariff} tariff")


def site(number: int, day: str, tariff: str, rng: random.Random) -> dict[str, Any]:
    """Make a good request: hourly series for older meters, quarter-hourly ones for the others."""
    steps = 96 if tariff == "quarter-hourly" or rng.random() < 0.5 else 24
    capacity = rng.choice((50.0, 200.0, 400.0, 1000.0))
    buy, sell = prices(tariff, rng)
    return {
        "site": f"site-{number:04d}",
        "capacity_kwh": capacity,
        "max_charge_kw": capacity / rng.choice((2, 4)),
        "max_discharge_kw": capacity / rng.choice((2, 3)),
        "efficiency": round(rng.uniform(0.82, 0.95), 3),
        "initial_soc_kwh": round(capacity * rng.uniform(0.1, 0.5), 1),
        "final_soc_kwh": round(capacity * 0.2, 1),
        "buy_price": buy,
        "sell_price": sell,
        "load_kw": load(day, steps, capacity * rng.uniform(0.2, 0.6), rng),
    }


def prices(tariff: str, rng: random.Random) -> tuple[list[float], list[float]]:
    """Make buying and selling prices: an industrial time-of-use tariff, or a day-ahead market less fees."""
    if tariff == "time-of-use":
        valley, flat, peak = rng.choice(((0.32, 0.68, 1.12), (0.28, 0.61, 1.05)))
        table = [valley] * 8 + [flat] * 2 + [peak] * 2 + [flat] * 5 + [peak] * 4 + [flat] * 3
        return table, [round(valley * 0.8, 4)] * 24
    market = [0.25 - 0.08 * math.cos((hour - 7.5) / 6 * math.pi) + rng.gauss(0, 0.02) for hour in range(24)]
    if tariff == "quarter-hourly":
        market = [price + rng.gauss(0, 0.005) for price in market for _ in range(4)]
    buy = [round(max(price, 0.01), 4) for price in market]
    return buy, [round(price * 0.6, 4) for price in buy]


def load(day: str, steps: int, scale: float, rng: random.Random) -> list[float]:
    """Make a load forecast in kW: work, an evening peak, noise, and in summer less the solar power from the roof."""
    work = 0.3 if "weekend" in day else 1.0
    sun = rng.uniform(0.8, 1.6) if "summer" in day else rng.uniform(0.0, 0.4)
    heat = 0.2 if "summer" in day else 0.5
    series = []
    for hour in hours(steps):
        shape = heat + work * math.exp(-(((hour - 13) / 4) ** 2)) + 0.6 * math.exp(-(((hour - 19.5) / 2) ** 2))
        shine = max(0.0, math.sin((hour - 6) / 12 * math.pi)) * sun
        series.append(round(scale * (shape * rng.gauss(1, 0.05) - shine), 3))
    return series


def hours(steps: int) -> list[float]:
    """Return the hour of the day at which each step begins."""
    return [24 * step / steps for step in range(steps)]


def spoil(request: dict[str, Any], fault: str) -> bytes:
    """Turn a good request into a bad one."""
    if fault == "not JSON":
        return f"site={request['site']};capacity={request['capacity_kwh']}".encode()
    if fault == "no tariff":
        return json.dumps({key: value for key, value in request.items() if key != "buy_price"}).encode()
    slow = {"initial_soc_kwh": 0.0, "final_soc_kwh": request["capacity_kwh"], "max_charge_kw": 0.5}
    return json.dumps(request | slow).encode()


if __name__ == "__main__":
    for sample in requests(int(sys.argv[1]) if len(sys.argv) > 1 else 100, bad=0):
        sys.stdout.buffer.write(sample.body + b"\n")
