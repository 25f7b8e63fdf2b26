"""Pacing: chunks, prefetch and the service time they follow."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.ipc.histogram import BUCKETS
from mqworker.producer.pacing import (
    CHUNK_SECONDS,
    PREFETCH_MAX,
    TOGETHER_SECONDS,
    WINDOW,
    ServiceTime,
    chunk_size,
    derive_prefetch,
    fixed_prefetch,
)

durations = st.floats(2**-20, 2**18)
highs = st.none() | st.floats(1e-6, 1e-3) | st.floats(1e-6, 1e5)
counts = st.integers(1, 5_000)


def measured(values) -> ServiceTime:
    service = ServiceTime()
    for value in values:
        service.observe(value)
    return service


@given(st.lists(durations, min_size=1, max_size=WINDOW - 1), st.floats(0.05, 1))
def test_a_quantile_is_within_a_factor_of_two(values, share):
    """The estimate is never below the true quantile, and at most twice as large."""
    exact = sorted(values)[max(0, math.ceil(len(values) * share - 1e-9) - 1)]
    quantile = measured(values).quantile(share)
    assert exact <= quantile <= 2 * exact


@pytest.mark.parametrize(("seconds", "bound"), [(0.0, 2**-20), (1e-9, 2**-20), (1e7, 2**19)])
def test_extreme_times_are_counted(seconds, bound):
    """A duration of zero counts as short, not as a second."""
    assert measured([seconds]).quantile() == bound


def test_nothing_is_known_before_the_first():
    """Without an observation there is no quantile."""
    assert ServiceTime().quantile() is None


def test_old_times_are_forgotten():
    """After a change of load the recent messages decide, while the metrics keep everything."""
    service = measured([1.0] * 10_000 + [0.001] * 4_000)
    assert service.quantile() <= 0.002
    assert service.count == sum(service.histogram.counts) == 14_000
    assert service.histogram.total == pytest.approx(10_004)


@given(st.lists(durations, max_size=50))
def test_the_histogram_has_every_message_under_its_bound(values):
    """The cumulative count at a bound covers every message that took at most that long."""
    service = measured(values)
    for number, bound in enumerate(BUCKETS):
        assert sum(service.histogram.counts[: number + 1]) == sum(value <= bound for value in values)
    assert list(BUCKETS) == sorted(set(BUCKETS))
    assert BUCKETS[-1] == 1800


@given(highs, counts, st.integers(1, 64), st.integers(1, 4096))
def test_a_chunk_is_bounded(high, held, lanes, bound):
    """At most the bound, a fair share of what is held (unless that is tiny), and a few milliseconds of work."""
    size = chunk_size(high, held, lanes, bound)
    assert 1 <= size <= bound
    together = 0 if high is None else int(TOGETHER_SECONDS / high)  # what is not worth dividing
    assert size <= max(-(-held // lanes), min(held, together))
    assert size == 1 or (high is not None and size * high <= CHUNK_SECONDS)


@pytest.mark.parametrize(
    ("high", "held", "size"),
    [(2**-15, 20, 20), (2**-15, 100, 50), (2**-10, 20, 10), (2**-10, 1, 1), (0.5, 20, 1)],
)
def test_tiny_shares_are_not_divided(high, held, size):
    """Of two idle Consumers one gets all, when all of it is done in less time than dividing costs."""
    assert chunk_size(high, held, 2, 256) == size


@given(st.floats(1e-6, 1e-2), st.floats(1e-6, 1e-2), counts, counts, st.integers(1, 64), st.integers(1, 64))
def test_chunks_grow_with_what_is_held_and_shrink_with_the_work(high, higher, held, more, lanes, lanes_more):
    """The size of a chunk is monotonic in each argument."""
    high, higher = sorted((high, higher))
    held, more = sorted((held, more))
    lanes, lanes_more = sorted((lanes, lanes_more))
    size = chunk_size(high, held, lanes, 256)
    assert chunk_size(higher, held, lanes, 256) <= size
    assert chunk_size(high, more, lanes, 256) >= size
    assert chunk_size(high, held, lanes_more, 256) <= size


@given(highs, st.integers(0, 1024), st.integers(0, 2_100))
def test_prefetch_is_bounded_and_settles(high, consumers, present):
    """At least two for each Consumer, at most 1,000 (or those two), and asking again changes nothing."""
    value = derive_prefetch(high, consumers, present)
    assert 2 * consumers <= value <= max(PREFETCH_MAX, 2 * consumers)
    assert derive_prefetch(high, consumers, value) == value


@pytest.mark.parametrize(
    ("high", "consumers", "prefetch"),
    [(None, 2, 128), (None, 16, 1000), (None, 600, 1200), (1e-5, 2, 128), (0.05, 2, 40), (60.0, 4, 8), (None, 0, 0)],
)
def test_a_prefetch_that_stays_is_larger_unless_messages_are_known_to_be_long(high, consumers, prefetch):
    """64 for each Consumer, up to 1,000; only a second of work for each when that is less; at least two for each."""
    assert fixed_prefetch(high, consumers) == prefetch


@given(st.lists(st.floats(0.9, 1.1), min_size=2, max_size=30), st.integers(1, 64), st.floats(1e-4, 10))
def test_a_steady_load_does_not_move_the_prefetch_to_and_fro(noise, consumers, high):
    """A service time that varies by a tenth changes the prefetch at most once after the first value."""
    value, moves = derive_prefetch(high * noise[0], consumers, 0), 0
    for factor in noise[1:]:
        new = derive_prefetch(high * factor, consumers, value)
        moves, value = moves + (new != value), new
    assert moves <= 1


@given(st.lists(durations, min_size=1, max_size=WINDOW - 1))
def test_the_mean_is_exact_within_the_window(values):
    """It is that of all messages then."""
    assert measured(values).mean == pytest.approx(math.fsum(values) / len(values))


def test_the_mean_is_that_of_the_recent_messages():
    """After a change of load the recent messages decide."""
    assert measured([1.0] * 10_000 + [0.001] * 6_000).mean <= 0.002


def test_there_is_no_mean_before_the_first():
    """Without an observation there is none."""
    assert ServiceTime().mean is None
