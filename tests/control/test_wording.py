"""How durations are told."""

import pytest

from mqworker.control.wording import about, seconds, size


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (-1, "0 µs"),
        (0.000_25, "250 µs"),
        (0.000_999_6, "1 ms"),
        (0.012_34, "12.3 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (12.34, "12.3 s"),
        (99.94, "99.9 s"),
        (99.96, "100 s"),
        (100, "1 min 40 s"),
        (3600, "1 h 0 min"),
        (172_800, "2 d 0 h"),
    ],
)
def test_a_duration_has_a_unit_in_which_it_is_short(value, told):
    """Never a power of ten: what rounds up to a thousand of one unit is told in the next one."""
    assert seconds(value) == told


@pytest.mark.parametrize(("value", "told"), [(-3, "1 s"), (0.2, "1 s"), (12.4, "12 s"), (99.7, "1 min 40 s")])
def test_in_a_sentence_a_duration_is_in_whole_seconds(value, told):
    """Nobody acts on less than a second, and nothing begins in 0 s."""
    assert about(value) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1023, "1,023 B"),
        (1024, "1 KiB"),
        (64_000, "62.5 KiB"),
        (16 << 20, "16 MiB"),
        (52_345_678, "49.9 MiB"),
        (1000 << 20, "1,000 MiB"),
        (1 << 50, "1,024 TiB"),
    ],
)
def test_bytes_are_told_in_the_units_of_the_limits(value, told):
    """A limit of 16 MiB and what is measured against it have the same unit."""
    assert size(value) == told
