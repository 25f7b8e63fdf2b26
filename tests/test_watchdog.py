"""The watchdog: when it acts, and that it acts on nothing else."""

import subprocess
import sys

import pytest

from mqworker.address import Address
from mqworker.watchdog import GRACE, KILL, MISSES, QUIET, START_PATIENCE, WARN, Look, Watchdog, check_alive
from tests.support.cli import environment
from tests.support.tiny_http import response, tiny_server

UP = Look(pid=7, age=60, answered=True)
MUTE = Look(pid=7, age=65, answered=False)
SILENCE = [WARN] + [QUIET] * (MISSES - 2) + [KILL]


@pytest.mark.parametrize(
    ("looks", "verdicts"),
    [
        pytest.param([UP] * 3, [QUIET] * 3, id="answers: nothing to do"),
        pytest.param([UP] + [MUTE] * MISSES, [QUIET, *SILENCE], id="several misses in a row: kill"),
        pytest.param([UP] + [MUTE] * (MISSES - 1) + [UP], [QUIET, *SILENCE[:-1], QUIET], id="answer in time"),
        pytest.param([UP, MUTE, UP, MUTE, UP, MUTE, UP, MUTE, UP], [QUIET, WARN] * 4 + [QUIET], id="now and then"),
        pytest.param([MUTE] * 8, [WARN] + [QUIET] * 7, id="never heard: perhaps the address is wrong, no kill"),
        pytest.param([UP] + [Look(8, GRACE - 1, False)] * 9, [QUIET] * 10, id="just started: nothing is expected"),
        pytest.param(
            [UP] + [Look(8, START_PATIENCE - 1, False)] * MISSES,
            [QUIET, *SILENCE[:-1], QUIET],
            id="a slow start: patience",
        ),
        pytest.param(
            [UP] + [Look(8, START_PATIENCE + 1, False)] * MISSES, [QUIET, *SILENCE], id="a start that never ends: kill"
        ),
        pytest.param(
            [UP, MUTE, MUTE, MUTE, Look(0, 0, False), MUTE],
            [QUIET, WARN, QUIET, QUIET, QUIET, WARN],
            id="not running: count anew",
        ),
        pytest.param([UP] + [MUTE] * (2 * MISSES), [QUIET, *SILENCE, *SILENCE], id="still the same process: again"),
    ],
)
def test_when_the_watchdog_acts(looks, verdicts):
    """Only a service that has answered once and then missed several times in a row is killed."""
    watchdog = Watchdog()
    assert [watchdog.decide(look) for look in looks] == verdicts


@pytest.mark.parametrize(
    ("answer", "fine"),
    [(response("200 OK"), True), (response("503 Service Unavailable"), False), (b"", False), (b"junk\r\n\r\n", False)],
)
def test_what_counts_as_an_answer(tmp_path, answer, fine):
    """Only a good answer from /livez counts; one that reports a hanging main thread does not."""
    with tiny_server(tmp_path / "s", lambda _: answer) as server:
        assert (check_alive(Address(socket=str(tmp_path / "s"))) == "") is fine
        assert server.requests[0].startswith(b"GET /livez ")


@pytest.mark.parametrize("module", ["mqworker.watchdog", "mqworker.guard"])
def test_an_error_of_its_own_never_ends_the_watchdog(tmp_path, module):
    """Without supervisord every event is still acknowledged, the error is reported, and end of stdin ends it.

    The same under the name that the supervisor files of earlier versions have.
    """
    (tmp_path / "mqworker.toml").write_text('[stages.a]\ninput = "a"\njobs = ["a:b"]\n')
    event = "ver:3.0 server:supervisor serial:1 pool:watchdog poolserial:1 eventname:TICK_5 len:15\nwhen:1795235509"
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=tmp_path,
        env=environment({"SUPERVISOR_SERVER_URL": f"unix://{tmp_path}/none.sock"}),
        input=event * 2,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout == "READY\n" + "RESULT 2\nOKREADY\n" * 2
    assert done.stderr.count("this look failed") == 2
    assert "Traceback" not in done.stderr


def test_a_bad_configuration_ends_the_watchdog_with_78(tmp_path):
    """It reports what is wrong, as the service does."""
    done = subprocess.run(
        [sys.executable, "-m", "mqworker.watchdog"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 78
    assert "stages: missing" in done.stderr
