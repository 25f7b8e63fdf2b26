"""What stages ask of the machine and cannot have."""

import os
import subprocess
import sys

import pytest

from mqworker.config.model import InputConfig, StageConfig
from mqworker.service.resources import listed, unmet

STAGE = StageConfig(input=InputConfig(queue="in"), jobs=("m:f",))
OURS = os.sched_getaffinity(0)


@pytest.mark.parametrize(
    ("cpus", "text"), [([], ""), ([3], "3"), ([1, 0], "0-1"), ([0, 1, 2, 3, 8, 10, 11], "0-3,8,10-11")]
)
def test_cpus_are_listed_as_the_kernel_does(cpus, text):
    """Ranges, and commas between them."""
    assert listed(cpus) == text


def test_a_cpu_that_is_not_ours_is_told_with_those_that_are():
    """Only the missing ones are named; a stage that asks for ours, or for none, has what it asks for."""
    stages = {
        "good": StageConfig(input=STAGE.input, jobs=STAGE.jobs, cpus=tuple(OURS)),
        "any": STAGE,
        "b.d": StageConfig(input=STAGE.input, jobs=STAGE.jobs, cpus=(*OURS, 8000, 8001)),
    }
    assert [*unmet(stages)] == [
        ('stages."b.d".cpus', "this service may not run on 8000-8001", f"it may run on {listed(OURS)}")
    ]


TRIAL = """\
import os, resource
from mqworker.config.model import InputConfig, StageConfig
from mqworker.service.resources import unmet
resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
if os.getuid() == 0:
    os.setuid(65534)
stages = {str(nice): StageConfig(input=InputConfig(queue="in"), jobs=("m:f",), nice=nice) for nice in (-1, 0, 5)}
print([*unmet(stages)], os.nice(0))
"""


def test_a_niceness_that_needs_a_privilege_is_tried():
    """Without the privilege below 0 is refused, with the reason; 0 and more never is. The trial changes nothing."""
    before = os.nice(0)
    done = subprocess.run([sys.executable, "-c", TRIAL], capture_output=True, text=True, timeout=60, check=True)
    assert "key='stages.-1.nice', message='-1 is refused (Permission denied)'" in done.stdout
    assert done.stdout.count("Unmet") == 1
    assert done.stdout.endswith(f"] {before}\n")
    list(unmet({"any": StageConfig(input=STAGE.input, jobs=STAGE.jobs, nice=-20)}))
    assert os.nice(0) == before
