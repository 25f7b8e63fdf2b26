"""Durations as people write them."""

import pytest

from mqworker.config.durations import milliseconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10 s", 10_000),
        ("10s", 10_000),
        (" 5 min ", 300_000),
        ("1.5 h", 5_400_000),
        ("100 ms", 100),
        ("0.1 s", 100),
        ("1 d", 86_400_000),
        ("31 d", 31 * 86_400_000),
        ("99 ms", None),
        ("32 d", None),
        ("0 s", None),
        ("-1 s", None),
        ("10", None),
        ("s", None),
        ("", None),
        ("10 m", None),
        ("1e3 s", None),
        ("0.12345 s", None),
        ("0.1005 s", None),
    ],
)
def test_a_duration_is_read_or_refused(text, expected):
    """Whole milliseconds from 0.1 s to 31 days, with a unit; nothing else."""
    assert milliseconds(text) == expected
