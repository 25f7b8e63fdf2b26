"""A release is a folder that a symbolic link points to; a deployment turns the link under the running service."""

import shutil

import pytest

from tests.support.embedded import OUTPUT, Client, config
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system


def test_a_turned_link_is_followed_by_a_restart(service):
    """`restart` takes the code of the new release; when that folder is gone, it says so, and the old Consumers stay."""
    running = service(config(consumers=1))
    state = running.folder / ".mqworker"
    current = running.folder / "current"
    for number in (1, 2):
        release = running.folder / f"release-{number}"
        release.mkdir()
        (release / "jobs.py").write_text(f"def handle(body):\n    return body | {{'release': {number}}}\n")
        (release / "mqworker.toml").write_text(config(service=f'state_dir = "{state}"', consumers=1))
    current.symlink_to("release-1")
    settings = ("--config", f"{current}/mqworker.toml")
    (running.folder / "mqworker.toml").unlink()
    running.start(*settings)
    with Client(running) as client:

        def release_of_the_next() -> int:
            before = client.ready(OUTPUT)
            client.send(1)
            wait_for(lambda: client.ready(OUTPUT) > before, 20, "a result")
            return int(list(client.results())[-1].body["release"])

        assert release_of_the_next() == 1
        (running.folder / "next").symlink_to("release-2")
        (running.folder / "next").replace(current)
        assert release_of_the_next() == 1
        assert running.cli("restart", *settings).returncode == 0
        assert release_of_the_next() == 2
        shutil.move(running.folder / "release-2", running.folder / "gone")
        refused = running.cli("restart", *settings)
        assert refused.returncode == 78
        assert f"{current}/mqworker.toml" in refused.stderr
        status, told = running.ask("POST", "/api/v1/stages/work/restart")
        assert (status, "no module 'jobs'" in told["detail"]) == (422, True), told
        assert release_of_the_next() == 2
    assert running.stop() == 0
