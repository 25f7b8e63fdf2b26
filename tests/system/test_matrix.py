"""A slice of the kill matrix; `scripts/matrix` runs all of it."""

import pytest

from tests.matrix import run

pytestmark = pytest.mark.system


def slice_(broker: str, *cells: str) -> int:
    """Return two shots for each cell: one just before its step, one just after."""
    return run.main(["--broker", broker, "--times", "2", *(part for cell in cells for part in ("--cell", cell))])


def test_nothing_is_lost_or_repeated_on_the_embedded_broker(capsys):
    """Killing or stopping at these steps loses and repeats nothing; a stopped Consumer is killed."""
    cells = (
        "producer-kill-publishing",
        "producer-kill-confirmed",
        "consumer-kill-computing",
        "consumer-stop-dispatched",
    )
    assert slice_("sqlite", *cells) == 0, capsys.readouterr().err


@pytest.mark.rabbitmq
def test_nothing_is_lost_on_rabbitmq(capsys, rabbit):
    """A Producer killed where result and ack are two steps loses nothing, and repeats no more than promised."""
    cells = ("producer-kill-publishing", "producer-kill-confirmed", "producer-kill-acked")
    assert slice_("classic", *cells) == 0, capsys.readouterr().err
