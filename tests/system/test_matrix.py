"""A slice of the kill matrix: `scripts/matrix` runs all of it."""

import pytest

from tests.matrix import run

pytestmark = pytest.mark.system


@pytest.mark.parametrize("cell", ["producer-kill-publishing", "producer-kill-confirmed", "consumer-kill-computing"])
def test_nothing_is_lost_on_the_embedded_broker(cell, capsys):
    """A process killed at this step of a delivery loses nothing, and repeats no more than is promised."""
    assert run.main(["--broker", "sqlite", "--times", "1", "--cell", cell]) == 0, capsys.readouterr().err


@pytest.mark.rabbitmq
def test_nothing_is_lost_on_rabbitmq(capsys, rabbit):
    """The same on RabbitMQ, where a result and its ack are two steps."""
    cells = [part for step in ("publishing", "confirmed", "acked") for part in ("--cell", f"producer-kill-{step}")]
    assert run.main(["--broker", "classic", "--times", "1", *cells]) == 0, capsys.readouterr().err
