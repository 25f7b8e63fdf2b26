"""The solver example: a program between two Python jobs does what the same method does in Python; bad vans are told."""

import importlib
import json
import sys
from itertools import product
from pathlib import Path

import pytest

from mqworker import Reject
from mqworker.testing import run_job
from tests.support.embedded import DEAD, OUTPUT, Client
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

EXAMPLE = Path(__file__).parents[2] / "examples" / "solver"
FILES = {name: (EXAMPLE / name).read_text() for name in ("packing.py", "solve.awk")}
CHAIN = ["packing:question", {"exec": ["awk", "-f", "solve.awk"]}, "packing:plan"]


@pytest.fixture
def vans(monkeypatch):
    """Import the generator of the example."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    for name in ("packing", "generate"):
        sys.modules.pop(name, None)
    yield importlib.import_module("generate").vans
    for name in ("packing", "generate"):
        sys.modules.pop(name, None)


def reference(van):
    """Return the parcels that the solver's method chooses: greedy by value for weight, then the best exchanges."""
    weight = [parcel["weight"] for parcel in van["parcels"]]
    value = [parcel["value"] for parcel in van["parcels"]]
    room, taken, count = van["capacity"], set(), len(weight)
    for n in sorted(range(count), key=lambda n: -value[n] / weight[n]):
        if weight[n] <= room:
            taken.add(n)
            room -= weight[n]
    while True:
        gains = [
            (value[into] - (value[out] if out >= 0 else 0), -out, -into)
            for out in (-1, *sorted(taken))
            for into in set(range(count)) - taken
            if weight[into] - (weight[out] if out >= 0 else 0) <= room
        ]
        gain, out, into = max(gains, default=(0, 0, 0))
        if gain <= 0:
            return [van["parcels"][n]["name"] for n in sorted(taken)]
        if out <= 0:
            taken.remove(-out)
            room += weight[-out]
        taken.add(-into)
        room -= weight[-into]


def solved(van):
    """Return what the chain makes of a van."""
    result = run_job(CHAIN, json.dumps(van).encode(), root=EXAMPLE, codec="text", content_type="application/json")
    return result.body


def test_it_chooses_well(vans):
    """`exact` finds the best of all choices of a few parcels, `quick` is never above it, both fit into the van."""
    for van in vans(12, seed=7, parcels=8):
        parcels = van["parcels"]
        best = 0
        for choice in product((0, 1), repeat=len(parcels)):
            if sum(parcel["weight"] for parcel, n in zip(parcels, choice, strict=True) if n) <= van["capacity"]:
                best = max(best, sum(parcel["value"] for parcel, n in zip(parcels, choice, strict=True) if n))
        quick, exact = solved(van), solved(van | {"effort": "exact"})
        assert quick["value"] <= exact["value"] == best
        assert max(quick["weight"], exact["weight"]) <= van["capacity"]


def test_what_makes_no_sense_is_rejected_by_the_program():
    """Its exit code 65 rejects the message, with what it said on stderr."""
    van = {
        "van": 1,
        "capacity": 9,
        "parcels": [{"name": "a", "weight": 1, "value": 1}, {"name": "b", "weight": 0, "value": 1}],
    }
    with pytest.raises(Reject, match=r"^parcel 1: its weight must be above 0"):
        solved(van)


@pytest.mark.system
def test_the_stage_gives_what_the_same_method_gives_in_python(vans):
    """200 vans as the reference has them; one that would take years and one that makes no sense cost nobody else."""
    text = (EXAMPLE / "mqworker.toml").read_text()
    for old, new in (
        ('"packing"\n', '"in"\n'),
        ('"packed"', '"out"'),
        ("soft = 5", "soft = 1"),
        ("attempts = 2", "attempts = 1"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    text += '[service]\nlog_format = "json"\n[control]\nport = 0\n'
    many = list(vans(200))
    endless = next(van for van in vans(50, seed=3) if len(van["parcels"]) > 50)
    wrong = {"van": -1, "capacity": 1, "parcels": [{"name": "a", "weight": 0, "value": 1}]}
    with ServiceProcess(text, FILES) as service:
        service.start()
        with Client(service) as client:
            bodies = [*many[:100], endless | {"effort": "exact"}, wrong, *many[100:]]
            client.send_raw(json.dumps(van).encode() for van in bodies)
            wait_for(lambda: client.ready(OUTPUT) == 200 and client.ready(DEAD) == 2, 60, "all outcomes")
            found = {one.body["van"]: one.body for one in client.results()}
            dead = {dict(one.properties.headers)["x-mqworker-reason"]: one for one in client.results(DEAD)}
            assert {one.properties.content_type for one in client.results()} == {"application/json"}
        assert service.stop() == 0
    assert {van: one["parcels"] for van, one in found.items()} == {van["van"]: reference(van) for van in many}
    assert all(found[van["van"]]["weight"] <= van["capacity"] for van in many)
    assert {reason: one.body["van"] for reason, one in dead.items()} == {"timeout": endless["van"], "reject": -1}
