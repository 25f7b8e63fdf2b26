"""How stages follow each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.config.line import Place, in_order, line, lines
from mqworker.config.model import InputConfig, OutputConfig, StageConfig


def stage(source: str, output: dict[str, str] | None = None, **bound) -> StageConfig:
    """Return a stage with this input queue and these outputs."""
    return StageConfig(
        input=InputConfig(queue=source, **bound), jobs=("a:b",), output=OutputConfig(**output) if output else None
    )


def names(places: list[Place]) -> list[tuple[str, int]]:
    """Return each stage with its level."""
    return [(place.name, place.level) for place in places]


@pytest.mark.parametrize(
    ("after", "wanted"),
    [
        ({}, []),
        ({"a": [], "b": []}, [("a", 0), ("b", 0)]),
        ({"c": [], "b": ["c"], "a": ["b"]}, [("a", 0), ("b", 1), ("c", 2)]),
        ({"a": ["c", "b"], "b": [], "c": []}, [("a", 0), ("b", 1), ("c", 1)]),
        ({"a": ["d"], "b": ["d"], "d": []}, [("a", 0), ("b", 0), ("d", 1)]),
        ({"a": ["b", "d"], "b": ["c"], "c": ["d"], "d": []}, [("a", 0), ("b", 1), ("c", 2), ("d", 3)]),
        ({"x": ["y"], "a": ["b"], "b": [], "y": []}, [("x", 0), ("y", 1), ("a", 0), ("b", 1)]),
        ({"a": ["b"], "b": ["a"]}, [("a", 0), ("b", 1)]),
        ({"a": ["a"]}, [("a", 0)]),
        ({"p": ["a"], "a": ["b"], "b": ["a", "z"], "z": []}, [("p", 0), ("a", 1), ("b", 2), ("z", 3)]),
    ],
    ids=["none", "apart", "chain", "fork", "join", "short cut", "two lines", "ring", "own ring", "ring behind a stage"],
)
def test_each_stage_comes_after_those_that_feed_it(after, wanted):
    """A chain, a fork, a join read from front to back, and lines stay together; a ring is cut."""
    assert names(in_order(after)) == wanted


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=30))
def test_any_graph_is_ordered(edges):
    """Each stage comes once, whatever the graph; without rings, after all that feed it, one level above at least."""
    after = {str(number): [str(to) for to in {two for one, two in edges if one == number}] for number in range(8)}
    places = in_order(after)
    assert sorted(place.name for place in places) == sorted(after)
    forward = {
        str(number): [str(to) for to in {two for one, two in edges if one == number < two}] for number in range(8)
    }
    level = dict(names(in_order(forward)))
    order = list(level)
    for name, to in forward.items():
        assert all(order.index(name) < order.index(other) and level[name] < level[other] for other in to)


def test_what_hangs_together_is_one_line():
    """Forks and joins are; stages without a way between them are not."""
    after = {"a": ["c"], "b": [], "c": [], "d": ["c", "f"], "e": ["b"], "f": []}
    assert sorted(map(sorted, lines(in_order(after)))) == [["a", "c", "d", "f"], ["b", "e"]]


def test_results_come_by_queue_exchange_and_binding():
    """The queue itself, a binding that the output's routing key matches, a fanout; another exchange or key does not."""
    stages = {
        "last": stage("s", exchange="e", bindings=("cam.#",)),
        "first": stage("f", {"queue": "m"}),
        "middle": stage("m", {"exchange": "e", "routing_key": "cam.1"}),
        "aside": stage("x", {"exchange": "e", "routing_key": "other"}),
        "fan": stage("y", {"exchange": "all"}),
        "fanned": stage("z", exchange="all", type="fanout", bindings=("any",)),
    }
    assert names(line(stages, embedded=False)) == [
        *(("first", 0), ("middle", 1), ("last", 2)),
        *(("aside", 0), ("fan", 0), ("fanned", 1)),
    ]
