"""A stage's chain of jobs, changed while messages flow; and which jobs may be named for that."""

import contextlib
import json
import os
import shutil
import signal

import pytest

from mqworker.exits import Exit
from tests.support.embedded import OUTPUT, Client, config, put
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

JOBS = """\
import json
from json import dumps
import helpers
from helpers import borrowed

def handle(body):
    return body | {"jobs": ["handle"]}

def second(body):
    return body | {"jobs": [*body["jobs"], "second"]}

def third(body):
    return body | {"jobs": [*body["jobs"], "third"]}

class Fourth:
    def setup(self):
        self.name = "fourth"
    def handle(self, body):
        return body | {"jobs": [*body["jobs"], self.name]}

def __getattr__(name):
    if name == "lazy":
        return dumps
    raise AttributeError(name)

renamed = second
text = "no job"
made = helpers.maker()
alias = Fourth
"""
HELPERS = """\
from pathlib import Path
def borrowed(body): return body
def maker():
    def inner(body): return body
    return inner
"""
ANOTHER = "from pathlib import Path\nPath(__file__).with_name('imported').touch()\ndef handle(body): return body\n"


def chain(service: ServiceProcess) -> list[str]:
    """Return the chain as the CLI shows it: names, the disabled ones in parentheses."""
    (answer,) = json.loads(service.cli("jobs", "list", "--json").stdout).values()
    return [link["name"] if link["enabled"] else f"({link['name']})" for link in answer["chain"]]


def test_the_chain_is_changed_by_the_command_line_and_outlives_everything_but_the_file(service):
    """Add, move, disable, remove, set, roll back: the next message meets the chain, also after kills and a start."""
    running = service(config(consumers=1), {"jobs.py": JOBS, "helpers.py": HELPERS}).start()
    with Client(running) as client:

        def meets() -> list[str]:
            before = client.ready(OUTPUT)
            client.send(1)
            wait_for(lambda: client.ready(OUTPUT) > before, 20, "a result")
            return list(client.results()[-1].body["jobs"])

        def cli(*arguments: str) -> None:
            told = running.cli(*arguments)
            assert told.returncode == 0, told.stderr

        cli("jobs", "add", "jobs:second")
        assert meets() == ["handle", "second"]
        cli("jobs", "add", "jobs:third", "--at", "2")
        cli("jobs", "add", "jobs:Fourth", "--name", "last")
        assert meets() == ["handle", "third", "second", "fourth"]
        cli("jobs", "move", "last", "--at", "2")
        cli("jobs", "disable", "second")
        assert (chain(running), meets()) == (["handle", "last", "third", "(second)"], ["handle", "fourth", "third"])
        for one in running.stage("work")["actual"]["consumers"]:
            with contextlib.suppress(ProcessLookupError):  # it was about to leave, after the switch
                os.kill(one["pid"], signal.SIGKILL)
        assert meets() == ["handle", "fourth", "third"]
        assert running.stop() == 0
        running.start()
        assert meets() == ["handle", "fourth", "third"]
        cli("jobs", "enable", "second")
        cli("jobs", "remove", "third")
        assert meets() == ["handle", "fourth", "second"]
        cli("rollback")
        assert chain(running) == ["handle", "last", "third", "second"]
        cli("jobs", "set", "jobs:handle", "jobs:third")
        assert meets() == ["handle", "third"]
        assert running.stop() == 0
        running.write("mqworker.toml", config(consumers=1).replace('"jobs:handle"', '"jobs:handle", "jobs:second"'))
        running.start()
        assert "jobs in the configuration has changed" in running.event("configuration")["msg"]
        assert meets() == ["handle", "second"]
    assert running.stop() == 0


def test_what_must_not_be_named_is_refused_with_a_sentence(service, tmp_path):
    """Nothing that is defined elsewhere, nothing outside the folder; and what is not allowed is not imported.

    What the configuration or an earlier generation names is never refused.
    """
    files = {"jobs.py": JOBS, "helpers.py": HELPERS, "another.py": ANOTHER}
    running = service(config(control='port = 0\njobs = ["jobs", "linked", "json", "boxed.inside"]'), files)
    (tmp_path / "outside.py").write_text(ANOTHER)
    (running.folder / "linked.py").symlink_to(tmp_path / "outside.py")
    (running.folder / "boxed").mkdir()
    for name, text in (("pyvenv.cfg", ""), ("inside.py", ANOTHER), ("__init__.py", "")):
        (running.folder / "boxed" / name).write_text(text)
    running.start()
    path = "/api/v1/stages/work/jobs"
    refused = {
        "jobs:borrowed": "it is borrowed of helpers",
        "jobs:dumps": "it is dumps of json",
        "jobs:json": "it is a module",
        "jobs:helpers": "it is a module",
        "jobs:made": "it is maker.<locals>.inner of helpers",
        "jobs:renamed": "it is second of jobs",
        "jobs:alias": "it is Fourth of jobs",
        "jobs:text": "cannot be called",
        "jobs:nothing": "has no",
        "jobs:lazy": "must be defined in jobs itself",
        "jobs:helpers.borrowed": "without dots",
        "jobs:Fourth.handle": "without dots",
        "helpers:borrowed": "may not be named here",
        "another:handle": "may not be named here",
        "os:system": "may not be named here",
        "json:dumps": "must be a file in",
        "json.decoder:JSONDecoder": "may not be named here",
        "linked:handle": "must be a file in",
        "boxed.inside:handle": "cannot be found",
        "builtins:eval": "may not be named here",
        "subprocess:run": "may not be named here",
        "importlib:import_module": "may not be named here",
        "mqworker.testing:run_job": "may not be named here",
        "jobs.helpers:borrowed": "may not be named here",
        "msgspec:json": "may not be named here",
        "jobs:handle.__globals__": "without dots",
        "jobs:Path.unlink": "without dots",
        "jobs:__builtins__": "cannot be called",
        "jobs:__loader__": "it is",
        "jobs:__name__": "cannot be called",
    }
    for job, words in refused.items():
        status, told = running.ask("POST", path, {"job": job})
        assert (status, words in told["detail"]) == (422, True), (job, told)
    for job in ("jobs:a b", "jobs", ":x", "../x:y", "jobs:", "jobs/x:y", "jobs:x\n", "", "a:b:c", "..jobs:x", "jobs:1"):
        assert running.ask("POST", path, {"job": job})[0] == 422, job
    assert not list(running.folder.rglob("imported"))
    assert not list(tmp_path.rglob("imported"))
    assert chain(running) == ["handle"]
    put(running, "jobs", {"job": "jobs:second"}, method="POST")
    put(running, "rollback", {}, method="POST")
    running.write(
        "mqworker.toml", (running.folder / "mqworker.toml").read_text().replace('jobs = ["jobs",', 'jobs = ["x",')
    )
    assert running.stop() == 0
    running.start()
    status, told = running.ask("POST", path, {"job": "jobs:third"})
    assert (status, "may not be named here; allowed: x, linked" in told["detail"]) == (422, True), told
    put(running, "jobs", {"job": "jobs:second"}, method="POST")
    put(running, "jobs", {"jobs": ["jobs:second", "jobs:handle"]}, method="PUT")
    assert running.stop() == 0
    shutil.rmtree(running.folder / "boxed")


def test_of_two_operators_one_is_told_that_the_chain_has_changed(service):
    """The command line names the generation that it has seen; 412 ends it with 2 and what is there now."""
    running = service(config(), {"jobs.py": JOBS, "helpers.py": HELPERS}).start()
    generation = running.stage("work")["desired"]["generation"]
    path = "/api/v1/stages/work/jobs"
    put(running, "jobs", {"job": "jobs:second"}, method="POST")
    status, told = running.ask("DELETE", f"{path}/second", headers={"If-Match": f'"{generation}"'})
    assert (status, told["kind"]) == (412, "conflict")
    assert f"is at generation {generation + 1} by now" in told["detail"]
    assert "handle (jobs:handle), second (jobs:second)" in told["detail"]
    assert running.cli("jobs", "remove", "nobody").returncode == Exit.USAGE
    assert chain(running) == ["handle", "second"]
    assert running.stop() == 0


NEEDY = """\
from dataclasses import dataclass

@dataclass
class Params:
    radius: int

def blur(body, params):
    return body | {"radius": params.radius}
"""


def test_a_job_and_the_parameter_that_it_needs_come_and_go_together(service):
    """One generation has both; neither can be had alone, and a job that is disabled counts for nothing."""
    strict = "import msgspec\nclass Params(msgspec.Struct, forbid_unknown_fields=True):\n    n: int = 0\n"
    running = service(
        config(control='port = 0\njobs = ["jobs", "needy"]'),
        {"jobs.py": strict + "def handle(body, params): return body\n", "needy.py": NEEDY},
    ).start()
    with Client(running) as client:
        alone = running.cli("jobs", "add", "needy:blur")
        assert (alone.returncode, "radius: is required" in alone.stderr) == (Exit.USAGE, True), alone.stderr
        assert running.cli("params", "set", "radius=3").returncode == Exit.USAGE
        added = running.cli("jobs", "add", "needy:blur", "--set", "radius=3")
        assert added.returncode == 0, added.stderr
        client.send(1)
        assert [one.body["radius"] for one in client.finish()] == [3]
        assert running.cli("jobs", "disable", "blur").returncode == Exit.USAGE
        assert running.cli("jobs", "disable", "blur", "--set", "radius=null").returncode == 0
        assert running.cli("jobs", "enable", "blur", "--set", "radius=4").returncode == 0
        assert running.cli("jobs", "remove", "blur", "--set", "radius=null").returncode == 0
        client.send(1)
        assert "radius" not in client.finish()[-1].body
        shown = running.cli("config", "show", "--origin")
        assert (shown.returncode, "live" in shown.stdout) == (0, True), shown.stderr
    assert running.stop() == 0


def test_a_rollback_under_load_mixes_nothing(service):
    """While new Consumers import, old ones go on with their own code and parameters: none ends, and nothing fails."""
    code = """\
import time
from dataclasses import dataclass
@dataclass
class Params:
    {0}: int
time.sleep(0.5)
def handle(body, params):
    return body | {{"code": "{0}", "value": params.{0}}}
"""
    running = service(config("params = { a = 1 }", consumers=2), {"jobs.py": code.format("a")}).start()
    with Client(running) as client:
        running.write("jobs.py", code.format("b"))
        status, told = running.ask("POST", "/api/v1/stages/work/restart?wait=30")
        assert (status, {each["field"] for each in told["fields"]}) == (422, {"a", "b"}), told
        renamed = running.cli("restart", "--set", "a=null", "--set", "b=2")
        assert renamed.returncode == 0, renamed.stderr
        client.send(300)
        put(running, "rollback", {}, method="POST")
        client.send(100)
        results = client.finish()
        actual = running.stage("work")["actual"]
    found = {(one.generation, one.body["code"], one.body["value"]) for one in results}
    assert {each[1:] for each in found} == {("a", 1), ("b", 2)}
    assert len(found) == 2, found
    assert not [event for event in running.events() if event["event"] == "consumer_ended"]
    assert actual["counters"]["retried"] == 0
    assert running.stop() == 0


def test_a_start_takes_no_code_that_a_rollback_left_behind_and_no_job_that_is_gone(service):
    """The code that was rolled back from is not even imported; live jobs that the folder lost are told and left out."""
    bad = JOBS + "\nfrom pathlib import Path\nPath(__file__).with_name('imported').touch()\n"
    running = service(config(consumers=1), {"jobs.py": JOBS, "helpers.py": HELPERS}).start()
    running.write("jobs.py", bad)
    put(running, "restart", method="POST")
    put(running, "rollback", {}, method="POST")
    put(running, "jobs", {"job": "jobs:third"}, method="POST")
    assert running.stop() == 0
    (running.folder / "imported").unlink()
    running.start()
    assert not (running.folder / "imported").exists()
    assert chain(running) == ["handle", "third"]
    assert running.stop() == 0
    shutil.rmtree(running.folder / ".mqworker/code")
    running.start()
    assert "the code that a rollback chose is gone" in running.event("configuration")["msg"]
    assert running.stop() == 0
    running.write("jobs.py", JOBS.replace("def third", "def other"))
    running.start()
    assert chain(running) == ["handle"]
    assert [event for event in running.events() if "jobs that were set live are not in the code" in event["msg"]]
    assert running.stop() == 0


def test_live_parameters_that_new_code_does_not_accept_keep_no_service_from_starting(service):
    """The configured ones take their place, and the log says so; so it is with what a rollback chose."""
    code = "import msgspec\nclass Params(msgspec.Struct):\n    {0}: int = 0\ndef handle(body, params): return body\n"
    running = service(config(consumers=1), {"jobs.py": code.format("old")}).start()
    put(running, "params", {"old": 3}, method="PATCH")
    assert running.stop() == 0
    running.write("jobs.py", code.format("new"))
    running.start()
    assert running.stage("work")["desired"]["params"] == {}
    assert "does not accept the parameters that were set live" in running.event("configuration")["msg"]
    put(running, "rollback", {}, method="POST")
    assert running.stage("work")["desired"]["params"] == {"old": 3}
    assert running.stop() == 0
    running.write("jobs.py", code.format("third"))
    running.start()
    assert running.stage("work")["desired"]["params"] == {}
    assert [event for event in running.events() if "with the configured jobs and parameters" in event["msg"]]
    assert running.stop() == 0
