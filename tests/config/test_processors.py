"""How many processors count as ours: affinity and the quotas of control groups, of both versions."""

import math
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from mqworker.config.processors import usable

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("ours", "files", "quota"),
    [
        pytest.param("0::/\n", {}, math.inf, id="no limit anywhere"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, math.inf, id="version 2, no limit"),
        pytest.param("0::/\n", {"cpu.max": "100000 100000\n"}, 1, id="version 2, a container's own view"),
        pytest.param("0::/a/b\n", {"a/cpu.max": "50000 100000\n", "a/b/cpu.max": "max 100000"}, 1, id="a group around"),
        pytest.param("0::/not/inside\n", {"cpu.max": "100000 100000\n"}, 1, id="a path of the host"),
        pytest.param("0::/../x\n", {"cpu.max": "100000 100000\n"}, 1, id="a group beside ours"),
        pytest.param(
            "3:cpu,cpuacct:/a\n0::/\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "90000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            1,
            id="version 1",
        ),
        pytest.param(
            "1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf, id="-1"
        ),
        pytest.param("2:memory:/\n", {"memory/cpu.max": "1 100000"}, math.inf, id="another controller"),
        pytest.param("0::/\n", {"cpu.max": "nonsense"}, math.inf, id="nonsense"),
        pytest.param("0::/\u2028\udcff\n", {"\u2028\udcff/cpu.max": "1 1\n"}, 1, id="a path of any characters"),
        pytest.param("0::/\nodd\n:\n", {"cpu.max": "100000 100000\n"}, 1, id="odd lines"),
    ],
)
def test_the_quota_of_a_container_counts(tmp_path, ours, files, quota):
    """The least quota of our groups and of those around them, never more than our affinity, never less than 1."""
    (tmp_path / "self").write_text(ours, errors="surrogateescape")
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert usable(tmp_path / "cgroup", tmp_path / "self") == min(ALL, quota)
    some = [*os.sched_getaffinity(0)][: ALL // 2 + 1]
    assert usable(tmp_path / "cgroup", tmp_path / "self", cpus=[*some, 8000]) == min(len(some), quota)


def test_a_real_quota_counts():
    """In a control group that may use one processor, one is counted."""
    for parent, file in (("cpu", "cpu.cfs_quota_us"), ("", "cpu.max")):
        folder = Path("/sys/fs/cgroup") / parent / f"mqworker-test-{uuid.uuid4().hex[:8]}"
        try:
            folder.mkdir()
            (folder / file).write_text("100000")
        except OSError:
            if folder.exists():
                folder.rmdir()
            continue
        code = (
            f"import os; open('{folder}/cgroup.procs', 'w').write(str(os.getpid()))\n"
            "from mqworker.config.processors import usable; print(usable())"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        folder.rmdir()
        assert (done.stdout, done.stderr) == ("1\n", "")
        return
    pytest.skip("this user may not limit processors by a control group")
