"""A battery's schedule for one day, optimised by particle swarm: the job `energy_storage:optimise`.

Runs in a Consumer, one call per message; it keeps nothing between calls, does no I/O and starts no thread. It receives
one JSON object (`Request`) and the live `Params`, and returns the schedule with its cost. For a request that can never
be answered it raises `mqworker.Reject` with the name of the field, so it is dead-lettered at once and not retried.

Units: energy in kWh, power in kW, prices in any currency per kWh. The battery's power is positive while charging,
the grid's while buying.

The swarm does not search over 24 or 96 powers but over one *intensity* for each tariff block (a run of steps with
the same prices, in which the site has either a deficit or a surplus):

    -2 charge at full power           +1 cover the whole deficit
    -1 store the whole surplus        +2 discharge at full power
     0 rest                           (between these points the power is interpolated)

Any intensities give a schedule that respects all limits, because `Day.decode` moves the state of charge to the nearest
value from which the final one can still be reached. The cost of a step has its corners at these five points, so
little is lost by the encoding and the swarm has few dimensions.

Sources: J. Kennedy, R. Eberhart, "Particle swarm optimization", Proc. ICNN 1995, pp. 1942-1948; M. Clerc,
J. Kennedy, "The particle swarm: explosion, stability, and convergence in a multidimensional complex space", IEEE
Trans. Evol. Comput. 6(1), 2002, pp. 58-73 (constriction: inertia 0.7298, both coefficients 1.49618); J. Kennedy,
R. Mendes, "Population structure and particle swarm performance", Proc. CEC 2002, pp. 1671-1676 (the ring). The ring
spreads news slowly, so within a few hundred iterations an inertia slightly below the constriction's found better
schedules (on trial days with noisy prices the worst gap to the exact optimum fell from 4.6 to 2.3 % of the saving).
"""

import hashlib
import math
from dataclasses import astuple, dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from mqworker import Reject

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

HOURS = 24
LIMIT = 2.0  # of an intensity, in both directions
GAIN = 1e-6  # an improvement below this share of the bill does not count as one

RANGES = {
    "particles": (4, 1000),
    "iterations": (1, 100_000),
    "inertia": (0.0, 1.0),
    "cognitive": (0.0, 4.0),
    "social": (0.0, 4.0),
    "patience": (1, 100_000),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class Params:
    """What can be changed while the service is running; each value is checked against `RANGES`."""

    particles: int = 60
    iterations: int = 600  # at most, for one message
    inertia: float = 0.65  # share of its velocity that a particle keeps; below the constriction's, see above
    cognitive: float = 1.49618  # pull towards its own best position
    social: float = 1.49618  # pull towards the best position of its two neighbours
    patience: int = 100  # iterations without an improvement after which a search ends
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError that names the field, its range and the value."""
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            kind = int if isinstance(low, int) else (int, float)
            if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high:
                what = "a whole number" if kind is int else "a number"
                raise ValueError(f"{name} must be {what} from {low} to {high}, not {value!r}")


Energy = Annotated[float, Meta(ge=0, le=1e6)]
Power = Annotated[float, Meta(gt=0, le=1e6)]
Series = Annotated[tuple[Annotated[float, Meta(ge=-1e6, le=1e6)], ...], Meta(min_length=HOURS, max_length=4 * HOURS)]


class Request(msgspec.Struct, frozen=True):
    """One message. A series has 24 hourly values or 96 quarter-hourly ones; both kinds may be mixed."""

    site: str
    capacity_kwh: Annotated[float, Meta(gt=0, le=1e6)]
    max_charge_kw: Power
    max_discharge_kw: Power
    efficiency: Annotated[float, Meta(gt=0, le=1)]  # of a round trip; its square root applies each way
    initial_soc_kwh: Energy
    final_soc_kwh: Energy
    buy_price: Series
    sell_price: Series
    load_kw: Series  # forecast, net of own generation: negative while generation is larger


def read(body: Any) -> Request:
    """Check a decoded body; raises Reject with the name of the field that is wrong."""
    try:
        request = msgspec.convert(body, Request)
    except msgspec.ValidationError as error:
        raise Reject(str(error)) from None
    for name in ("buy_price", "sell_price", "load_kw"):
        if len(getattr(request, name)) not in (HOURS, 4 * HOURS):
            raise Reject(f"{name} must have {HOURS} or {4 * HOURS} values, not {len(getattr(request, name))}")
    for name in ("initial_soc_kwh", "final_soc_kwh"):
        if getattr(request, name) > request.capacity_kwh:
            raise Reject(f"{name} is {getattr(request, name):g}, more than capacity_kwh, {request.capacity_kwh:g}")
    return request


class Day:
    """A request as arrays, with what a swarm needs to know; raises Reject if the final charge is out of reach."""

    def __init__(self, request: Request) -> None:
        series = (request.buy_price, request.sell_price, request.load_kw)
        self.steps = max(map(len, series))
        self.step_hours = HOURS / self.steps
        buy, sell, load = (np.repeat(np.array(values), self.steps // len(values))[:, None] for values in series)
        self.buy, self.sell, self.load = buy, sell, load
        one_way = math.sqrt(request.efficiency)
        self.stored_per_kw = self.step_hours * one_way  # kWh that a step of charging with 1 kW stores
        self.drawn_per_kw = self.step_hours / one_way  # kWh that a step of discharging with 1 kW takes from the store
        self.surplus = np.clip(-load, 0, request.max_charge_kw)
        self.deficit = np.clip(load, 0, request.max_discharge_kw)
        self.max_charge, self.max_discharge = request.max_charge_kw, request.max_discharge_kw
        self.initial = request.initial_soc_kwh
        self.floor, self.ceiling = self._reachable(request)

        kind = np.hstack([buy, sell, load < 0])
        self.block = np.concatenate([[0], np.cumsum(np.any(kind[1:] != kind[:-1], axis=1))])  # of each step
        self.blocks = int(self.block[-1]) + 1

    def _reachable(self, request: Request) -> tuple[list[float], list[float]]:
        """Return the bounds of the state of charge after each step from which the final one can be reached."""
        rise, fall = self.max_charge * self.stored_per_kw, self.max_discharge * self.drawn_per_kw
        remaining = range(self.steps, -1, -1)  # steps
        floor = [max(0.0, request.final_soc_kwh - rise * n) for n in remaining]
        ceiling = [min(request.capacity_kwh, request.final_soc_kwh + fall * n) for n in remaining]
        if not floor[0] <= self.initial <= ceiling[0]:
            raise Reject(
                f"final_soc_kwh {request.final_soc_kwh:g} cannot be reached from initial_soc_kwh {self.initial:g} "
                f"in a day: that takes an initial charge from {floor[0]:g} to {ceiling[0]:g}"
            )
        return floor[1:], ceiling[1:]

    def decode(self, intensity: Floats) -> Floats:
        """Turn intensities (blocks, particles) into states of charge in kWh (steps + 1, particles)."""
        target = intensity[self.block]
        power = (
            np.clip(-target, 0, 1) * self.surplus
            + np.clip(-target - 1, 0, 1) * (self.max_charge - self.surplus)
            - np.clip(target, 0, 1) * self.deficit
            - np.clip(target - 1, 0, 1) * (self.max_discharge - self.deficit)
        )
        change = np.maximum(power, 0) * self.stored_per_kw + np.minimum(power, 0) * self.drawn_per_kw
        soc = np.empty((self.steps + 1, target.shape[1]))
        soc[0] = self.initial
        for step in range(self.steps):
            after = soc[step + 1]
            np.add(soc[step], change[step], out=after)
            np.maximum(after, self.floor[step], out=after)
            np.minimum(after, self.ceiling[step], out=after)
        return soc

    def power(self, soc: Floats) -> Floats:
        """Return the battery's power in kW (steps, particles) that leads to these states of charge."""
        change = np.diff(soc, axis=0)
        return np.maximum(change, 0) / self.stored_per_kw + np.minimum(change, 0) / self.drawn_per_kw

    def cost(self, power: Floats) -> Floats:
        """Return the day's cost for each column of battery powers; sales count as negative."""
        grid = self.load + power
        paid = self.buy * np.maximum(grid, 0) + self.sell * np.minimum(grid, 0)
        return np.asarray(paid.sum(axis=0) * self.step_hours)


@dataclass(frozen=True)
class Swarm:
    """What a search found: the best position of each particle (dimensions, particles) and its cost."""

    best: Floats
    cost: Floats
    iterations: int


def search(
    day: Day, dimension: Ints, start: Floats, params: Params, rng: np.random.Generator, iterations: int
) -> Swarm:
    """Let the particles at `start` search for the lowest cost; `dimension` maps each block to its own."""
    position, shape, column = start, start.shape, np.arange(start.shape[1])
    velocity = rng.uniform(-0.3, 0.3, shape)
    best, cost = start.copy(), day.cost(day.power(day.decode(start[dimension])))
    enough = GAIN * max(1.0, float(np.abs(cost).min()))
    mark, marked, done = float(cost.min()), 0, 0
    while done < iterations and done - marked < params.patience:
        ring = np.stack([np.roll(column, 1), column, np.roll(column, -1)])
        leader = best[:, ring[cost[ring].argmin(axis=0), column]]
        velocity = (
            params.inertia * velocity
            + params.cognitive * rng.random(shape) * (best - position)
            + params.social * rng.random(shape) * (leader - position)
        )
        position = position + velocity
        velocity[np.abs(position) > LIMIT] *= -0.5  # bounce off the wall
        position = np.clip(position, -LIMIT, LIMIT)
        now = day.cost(day.power(day.decode(position[dimension])))
        better = now < cost
        best[:, better], cost[better] = position[:, better], now[better]
        done += 1
        if cost.min() < mark - enough:
            mark, marked = float(cost.min()), done
    return Swarm(best, cost, done)


def optimise(body: Any, params: Params) -> dict[str, Any]:
    """Find the schedule of one day with the lowest cost; the same body and params always give the same answer.

    Returns `site`, `step_hours`; for each step `battery_kw` (positive: charging), `grid_kw` (positive: buying) and
    `soc_kwh` (at its end); `cost_without`, `cost_with`, `saving`; `iterations` done; and `spread`, the mean distance of
    the particles' own best costs from the best of all as a share of the saving (0: the swarm agrees; null: no saving).
    Raises Reject for a request that cannot be answered.
    """
    day = Day(read(body))
    identity = hashlib.sha256(msgspec.json.encode([body, astuple(params)], order="deterministic")).digest()
    rng = np.random.default_rng(int.from_bytes(identity, "big"))
    fine = np.arange(day.blocks)
    levels = (
        [fine] if day.blocks <= HOURS else [fine * HOURS // day.blocks, fine]
    )  # with many blocks: first in 24 groups
    position = rng.uniform(-LIMIT, LIMIT, (int(levels[0][-1]) + 1, params.particles))
    position[:, 0] = 0  # resting is a candidate, so using the battery never costs more than not using it
    done = 0
    for number, dimension in enumerate(levels, 1):
        swarm = search(day, dimension, position, params, rng, params.iterations * number // len(levels) - done)
        position, done = swarm.best[dimension], done + swarm.iterations
    return report(body["site"], day, day.decode(position[:, [swarm.cost.argmin()]]), swarm.cost, done)


def report(site: str, day: Day, soc: Floats, costs: Floats, iterations: int) -> dict[str, Any]:
    """Return the answer as plain JSON values, rounded to six decimals."""
    power = day.power(soc)
    without, cost = float(day.cost(np.zeros_like(power))[0]), float(day.cost(power)[0])
    saving = round(without - cost, 6)
    return {
        "site": site,
        "step_hours": day.step_hours,
        "battery_kw": np.round(power[:, 0], 6).tolist(),
        "grid_kw": np.round((day.load + power)[:, 0], 6).tolist(),
        "soc_kwh": np.round(soc[1:, 0], 6).tolist(),
        "cost_without": round(without, 6),
        "cost_with": round(cost, 6),
        "saving": saving,
        "iterations": iterations,
        "spread": round(max(0.0, float(costs.mean()) - cost) / saving, 6) if saving > 0 else None,
    }
