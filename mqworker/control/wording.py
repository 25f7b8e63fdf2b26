"""How durations, sizes, rates and numbers are worded for people, in sentences of the service and on the command line.

Pure; imports nothing of ours, so that verbs of the command line start quickly.
"""

SIZES = ("B", "KiB", "MiB", "GiB", "TiB")


def seconds(value: float) -> str:
    """Format a duration with two or three significant digits; one below zero, as of two clocks, is none."""
    value = max(value, 0.0)
    for below, factor, unit in ((999.5e-6, 1e6, "µs"), (0.9995, 1e3, "ms"), (100.0, 1.0, "s")):
        if value < below:  # what would be rounded up to a thousand of a unit is told in the next one
            return f"{value * factor:.3g} {unit}"
    hours, minutes = divmod(int(value) // 60, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {int(value) % 60} s"


def about(value: float) -> str:
    """Format a duration for a sentence: in whole seconds, as nobody acts on less."""
    whole = max(1, round(value))
    return f"{whole} s" if whole < 100 else seconds(whole)


def rate(value: float) -> str:
    """Format a number per second."""
    return f"{value:,.0f}/s" if value >= 100 else f"{value:.3g}/s"


def size(value: int) -> str:
    """Format a number of bytes in units of 1024, as limits are given."""
    power = min(4, max(0, value.bit_length() - 1) // 10)
    amount = value / 1024**power
    return f"{amount:.3g} {SIZES[power]}" if amount < 99.95 else f"{amount:,.0f} {SIZES[power]}"


def messages(count: int) -> str:
    """Format a number of messages."""
    return "1 message" if count == 1 else f"{count:,} messages"
