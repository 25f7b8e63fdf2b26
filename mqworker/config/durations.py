"""Durations as people write them: "10 s", "5 min", "1.5 h". Pure."""

import re

SHORTEST, LONGEST = 100, 31 * 86_400_000  # milliseconds
EXPECTED = '0.1 s to 31 d, such as "10 s", "5 min", "1.5 h" or "1 d"'

_UNITS = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_FORM = re.compile(r"\s*(\d{1,9}(?:\.\d{1,3})?)\s*(ms|s|min|h|d)\s*", re.ASCII)


def milliseconds(text: str) -> int | None:
    """Return a duration in whole milliseconds; None if the text is not a duration, or is too short or too long."""
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    exact = float(found[1]) * _UNITS[found[2]]
    value = round(exact)
    return value if SHORTEST <= value <= LONGEST and abs(exact - value) < 1e-6 else None
