"""The battery example: its schedules are feasible, near the optimum and reproducible; bad requests are explained."""

import importlib
import json
import math
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from mqworker import Reject

EXAMPLE = Path(__file__).parents[2] / "examples" / "energy_storage"
sys.path.append(str(EXAMPLE))
energy_storage = importlib.import_module("energy_storage")
generate = importlib.import_module("generate")
Params, optimise = energy_storage.Params, energy_storage.optimise

QUICK = Params(particles=8, iterations=15)


def request(**changes):
    """Return a small valid request, with changes."""
    return {
        "site": "a",
        "capacity_kwh": 100,
        "max_charge_kw": 25,
        "max_discharge_kw": 30,
        "efficiency": 0.9,
        "initial_soc_kwh": 20,
        "final_soc_kwh": 20,
        "buy_price": [0.3] * 8 + [0.7] * 9 + [1.1] * 4 + [0.7] * 3,
        "sell_price": [0.2] * 24,
        "load_kw": [20.0] * 24,
    } | changes


def exact_cost(body):
    """Return the lowest possible cost by linear programme over charge, discharge, buy, sell and state of charge."""
    steps = max(len(body[key]) for key in ("buy_price", "sell_price", "load_kw"))
    buy, sell, load = (np.repeat(body[key], steps // len(body[key])) for key in ("buy_price", "sell_price", "load_kw"))
    hours, one_way = 24 / steps, math.sqrt(body["efficiency"])
    one, none = np.eye(steps), np.zeros((steps, steps))
    store = np.hstack([-one * hours * one_way, one * hours / one_way, none, none, one - np.eye(steps, k=-1)])
    stored = np.zeros(steps)
    stored[0] = body["initial_soc_kwh"]
    bounds = [(0, body["max_charge_kw"])] * steps + [(0, body["max_discharge_kw"])] * steps
    bounds += [(0, None)] * (2 * steps) + [(0, body["capacity_kwh"])] * (steps - 1) + [(body["final_soc_kwh"],) * 2]
    answer = linprog(
        np.concatenate([np.zeros(2 * steps), hours * buy, -hours * sell, np.zeros(steps)]),
        A_eq=np.vstack([store, np.hstack([one, -one, -one, one, none])]),
        b_eq=np.concatenate([stored, -load]),
        bounds=bounds,
    )
    assert answer.success, answer.message
    return answer.fun


def series(low, high):
    numbers = st.floats(low, high, allow_nan=False)
    return st.sampled_from([24, 96]).flatmap(lambda n: st.lists(numbers, min_size=n, max_size=n))


@st.composite
def batteries(draw):
    capacity = draw(st.floats(1, 1000))
    return request(
        capacity_kwh=capacity,
        max_charge_kw=draw(st.floats(0.5, 500)),
        max_discharge_kw=draw(st.floats(0.5, 500)),
        efficiency=draw(st.floats(0.5, 1)),
        initial_soc_kwh=draw(st.floats(0, 1)) * capacity,
        final_soc_kwh=draw(st.floats(0, 1)) * capacity,
        buy_price=draw(series(-1, 2)),
        sell_price=draw(series(-1, 2)),
        load_kw=draw(series(-300, 300)),
    )


@settings(max_examples=60, deadline=None)
@given(body=batteries())
def test_every_schedule_is_possible(body):
    """Power and charge stay within bounds, energy balances, the day ends at the final charge, the bill is right."""
    try:
        answer = optimise(body, QUICK)
    except Reject as reject:
        reason = str(reject)
        assert reason.startswith("final_soc_kwh")
        return
    power, soc, grid = (np.array(answer[key]) for key in ("battery_kw", "soc_kwh", "grid_kw"))
    steps, hours, one_way = len(power), answer["step_hours"], math.sqrt(body["efficiency"])
    load, buy, sell = (np.repeat(body[k], steps // len(body[k])) for k in ("load_kw", "buy_price", "sell_price"))
    assert steps * hours == 24
    assert -body["max_discharge_kw"] - 1e-5 <= power.min() <= power.max() <= body["max_charge_kw"] + 1e-5
    assert -1e-5 <= soc.min() <= soc.max() <= body["capacity_kwh"] + 1e-5
    assert soc[-1] == pytest.approx(body["final_soc_kwh"], abs=1e-5)
    change = np.diff(soc, prepend=body["initial_soc_kwh"])
    stored = hours * np.where(power > 0, power * one_way, power / one_way)
    np.testing.assert_allclose(change, stored, atol=1e-5)
    np.testing.assert_allclose(grid, load + power, atol=1e-5)
    bill = hours * np.where(grid > 0, grid * buy, grid * sell).sum()
    assert answer["cost_with"] == pytest.approx(bill, abs=1e-3)
    assert answer["saving"] == pytest.approx(answer["cost_without"] - answer["cost_with"], abs=1e-5)


def gap(tariff, steps, day, seed):
    """Return the share of the possible saving that the swarm misses with default parameters."""
    rng = generate.random.Random(f"{tariff} {day} gap{seed}")
    buy, sell = generate.prices(tariff, rng)
    body = request(
        capacity_kwh=400,
        max_charge_kw=100,
        max_discharge_kw=130,
        initial_soc_kwh=80,
        final_soc_kwh=80,
        buy_price=buy,
        sell_price=sell,
        load_kw=generate.load(day, steps, 150, rng),
    )
    answer, best = optimise(body, Params()), exact_cost(body)
    assert answer["cost_with"] >= best - 1e-4
    return (answer["cost_with"] - best) / (answer["cost_without"] - best)


@pytest.mark.parametrize(
    ("tariff", "steps", "usual", "worst"),
    [
        ("time-of-use", 24, 0.001, 0.01),
        ("time-of-use", 96, 0.001, 0.01),
        ("hourly", 24, 0.01, 0.025),
        ("hourly", 96, 0.01, 0.025),
        ("quarter-hourly", 96, 0.04, 0.12),
    ],
)
@pytest.mark.untraced
def test_the_swarm_comes_near_the_exact_optimum(tariff, steps, usual, worst):
    """Of the linear programme's saving the swarm misses at most `usual` on average and `worst` on any day."""
    gaps = [gap(tariff, steps, day, seed) for day in generate.DAYS for seed in range(2)]
    assert sum(gaps) / len(gaps) <= usual
    assert max(gaps) <= worst


def test_same_request_same_answer():
    """The same body and parameters give the same answer to the last digit; another seed searches differently."""
    body = request(buy_price=generate.prices("hourly", generate.random.Random(1))[0])
    assert optimise(body, QUICK) == optimise(json.loads(json.dumps(body)), QUICK)
    assert optimise(body, QUICK) != optimise(body, Params(particles=8, iterations=15, seed=1))


def test_params_change_the_effort():
    """Iterations bound the work, patience ends it early, and more effort never makes the day dearer."""
    body = request(buy_price=generate.prices("quarter-hourly", generate.random.Random(2))[0])
    little, much = optimise(body, QUICK), optimise(body, Params())
    assert little["iterations"] == 15
    assert optimise(body, Params(iterations=1))["iterations"] == 1
    assert much["cost_with"] < little["cost_with"] <= little["cost_without"]
    assert optimise(request(), Params(patience=10))["iterations"] < optimise(request(), Params())["iterations"] < 600


def test_a_flat_tariff_saves_nothing():
    """Without price differences resting is best: no saving, no loss, and no spread to report."""
    answer = optimise(request(buy_price=[0.3] * 24), Params())
    assert (answer["saving"], answer["spread"]) == (0, None)
    assert set(answer["battery_kw"]) == {0}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"capacity_kwh": -1}, "capacity_kwh"),
        ({"capacity_kwh": math.nan}, "capacity_kwh"),
        ({"max_charge_kw": 0}, "max_charge_kw"),
        ({"max_discharge_kw": "30"}, "max_discharge_kw"),
        ({"efficiency": 1.01}, "efficiency"),
        ({"initial_soc_kwh": 101}, "initial_soc_kwh"),
        ({"final_soc_kwh": 101}, "final_soc_kwh"),
        ({"final_soc_kwh": 100, "max_charge_kw": 1}, "final_soc_kwh"),
        ({"final_soc_kwh": 0, "initial_soc_kwh": 100, "max_discharge_kw": 1}, "final_soc_kwh"),
        ({"buy_price": [0.3] * 23}, "buy_price"),
        ({"sell_price": [0.3] * 25}, "sell_price"),
        ({"load_kw": [20.0] * 97}, "load_kw"),
        ({"load_kw": [20.0] * 23 + [math.inf]}, "load_kw"),
        ({"load_kw": [20.0] * 23 + [None]}, "load_kw"),
        ({"site": 7}, "site"),
    ],
)
def test_a_bad_value_is_rejected_by_name(changes, field):
    """A wrong value is a Reject that names its field."""
    with pytest.raises(Reject, match=field):
        optimise(request(**changes), QUICK)


@pytest.mark.parametrize("field", request())
def test_a_missing_field_is_rejected_by_name(field):
    """Each field is required, and a Reject names the missing one."""
    body = request()
    del body[field]
    with pytest.raises(Reject, match=field):
        optimise(body, QUICK)


@pytest.mark.parametrize("body", [None, [], "text", 7])
def test_a_body_that_is_no_object_is_rejected(body):
    """Any other JSON value is a Reject too."""
    with pytest.raises(Reject, match="object"):
        optimise(body, QUICK)


@pytest.mark.parametrize("name", energy_storage.RANGES)
@pytest.mark.parametrize("value", [-1, math.nan, "9", None, True, 1e30])
def test_a_bad_parameter_is_named(name, value):
    """A parameter out of range or of the wrong type is a ValueError with its name."""
    with pytest.raises(ValueError, match=name):
        Params(**{name: value})


def test_the_configuration_states_the_defaults():
    """The parameters in mqworker.toml are the defaults of the code, so that the file documents them."""
    stage = tomllib.loads((EXAMPLE / "mqworker.toml").read_text())["stages"]["energy"]
    assert Params(**stage["params"]) == Params()
    assert stage["jobs"] == ["energy_storage:optimise"]


def test_generated_requests_are_good_but_for_the_bad_ones():
    """Of n samples exactly `bad` fail, each in its own way, and the same seed yields the same samples."""
    samples = list(generate.requests(40, seed=5, bad=3))
    assert samples == list(generate.requests(40, seed=5, bad=3))
    failed = []
    for body, label in samples:
        assert b"\n" not in body
        try:
            optimise(json.loads(body), QUICK)
        except (ValueError, Reject):
            failed.append(label)
    assert sorted(failed) == sorted(f"bad: {fault}" for fault in generate.FAULTS)
