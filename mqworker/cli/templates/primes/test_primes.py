"""Tests of the jobs, without a broker: `pytest`."""

from pathlib import Path

import pytest

from mqworker.testing import run_job

HERE = Path(__file__).parent


@pytest.mark.parametrize(("n", "prime"), [(2, 2), (20, 19), (1_000_000, 999_983)])
def test_the_largest_prime_is_found(n: int, prime: int) -> None:
    assert run_job("primes:largest", {"n": n}, root=HERE) == {"prime": prime}


def test_a_number_above_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="between 2 and 100"):
        run_job("primes:largest", {"n": 101}, params={"largest_n": 100}, root=HERE)
