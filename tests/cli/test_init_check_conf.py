"""The verbs that work without a service: init, check, conf."""

import configparser
import json
import math
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mqworker.config.stop_budget import StopBudget
from mqworker.exits import Exit
from tests.support.cli import environment, mqworker

ROOT = Path(__file__).parents[2]
STAGES = """\
[stages.one]
input = "one"
jobs = ["jobs:Seen"]
output = "two"
[stages.two]
input = "two"
jobs = ["jobs:Seen"]
output = "three"
[stages.three]
input = "three"
jobs = ["jobs:last"]
"""
JOBS = "class Seen:\n    shared = True\n    def handle(self, body): return body\ndef last(body): return body\n"


@pytest.fixture
def project(tmp_path) -> Path:
    """A project made by `mqworker init primes`."""
    assert mqworker("init", "primes", cwd=tmp_path).returncode == Exit.OK
    return tmp_path / "primes"


def test_init_makes_a_project_whose_test_passes(project):
    """The template is complete: its own test passes."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", "."],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_init_prints_the_next_three_commands(tmp_path):
    """Stdout has exactly the three next commands."""
    done = mqworker("init", "primes", cwd=tmp_path)
    verbs = [line.partition("mqworker ")[2].split()[0] for line in done.stdout.splitlines()]
    assert verbs == ["check", "run", "send"]


def test_init_never_overwrites(project):
    """An existing folder is refused and left unchanged."""
    (project / "primes.py").write_text("mine\n")
    assert mqworker("init", "primes", cwd=project.parent).returncode == Exit.USAGE
    assert (project / "primes.py").read_text() == "mine\n"


def findings(
    folder: Path, env: dict[str, str] | None = None, *arguments: str
) -> tuple[int, dict[str, tuple[str, str, str]]]:
    """Return the exit code of `check`, and its results by subject."""
    done = mqworker("check", "--json", *arguments, cwd=folder, env={"MQWORKER_CONTROL__PORT": "0", **(env or {})})
    lines = {row["what"]: (row["grade"], row["message"], row["fix"]) for row in json.loads(done.stdout)}
    return done.returncode, lines


def test_check_of_a_good_project(project):
    """All results are ok, and nothing is written."""
    before = sorted(path.name for path in project.iterdir())
    code, lines = findings(project)
    assert code == Exit.OK
    assert {grade for grade, _, _ in lines.values()} == {"ok"}
    assert set(lines) == {"configuration", "jobs primes", "broker", "state_dir", "control"}
    assert sorted(path.name for path in project.iterdir() if path.name != "__pycache__") == before


def test_check_says_a_line_and_a_fix_in_words(project):
    """The readable form has grade, subject, message and fix."""
    done = mqworker("check", cwd=project, env={"MQWORKER_CONTROL__PORT": "0"})
    assert done.returncode == Exit.OK
    assert all(line.startswith("ok ") for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("change", "what", "words"),
    [
        (("input =", "inptu ="), "configuration", "did you mean"),
        (("primes:largest", "prims:largest"), "jobs primes", "prims"),
        (("primes:largest", "primes:isqrt_"), "jobs primes", "isqrt_"),
        (("output", "params = { largest_n = 1 }\noutput"), "params primes", "at least 2"),
        (("output", "cpus = [8000]\noutput"), "resources", "stages.primes.cpus: this service may not run on 8000"),
    ],
)
def test_check_of_a_bad_project(project, change, what, words):
    """A misspelt key, a missing module or function and a bad parameter are each reported, with exit code 78."""
    config = project / "mqworker.toml"
    config.write_text(config.read_text().replace(*change, 1))
    code, lines = findings(project)
    assert code == Exit.CONFIG
    grade, message, fix = lines[what]
    assert grade == "fail"
    assert words in message + fix


def test_check_of_a_broker_that_is_not_there(project):
    """An unreachable broker is a failure, reported without its password."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"amqp://guest:canary@127.0.0.1:{held.getsockname()[1]}/"
        code, lines = findings(project, {"MQWORKER_BROKER__URL": url})
    assert code == Exit.CONFIG
    assert lines["broker"][0] == "fail"
    assert "canary" not in str(lines)


def test_check_of_a_taken_port(project):
    """Another program on the control port is a failure with its fix."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, lines = findings(project, {"MQWORKER_CONTROL__PORT": str(taken.getsockname()[1])})
    assert code == Exit.CONFIG
    assert lines["control"][0] == "fail"
    assert "control.port" in lines["control"][2]


def sections(text: str) -> configparser.RawConfigParser:
    """Parse a configuration as supervisord does."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    parser.read_string(text)
    return parser


def invariants(program: configparser.SectionProxy, drain: float) -> None:
    """Check what must hold in every program section that runs the service (reliability.md 61 to 66)."""
    assert float(program["stopwaitsecs"]) >= StopBudget(drain).least
    assert program["stopsignal"] == "TERM"
    assert program["stopasgroup"] == "false"
    assert program["killasgroup"] == "true"
    assert program["autorestart"] == "unexpected"
    assert program["exitcodes"] == "0,75,78"
    assert program["startsecs"] == "1"
    assert program["redirect_stderr"] == "true"
    assert int(program["stdout_logfile_backups"]) > 0
    assert program["stdout_logfile_maxbytes"].endswith("MB")


@pytest.mark.parametrize("drain", [0.5, 30.0, 120.0])
def test_conf_supervisor(project, drain):
    """The printed sections parse, keep the invariants, and the watchdog watches the same program and configuration."""
    env = {"MQWORKER_SERVICE__DRAIN_DEADLINE": str(drain), "MQWORKER_SERVICE__NAME": "energy"}
    text = mqworker("conf", "supervisor", cwd=project, env=env).stdout
    parser = sections(text)
    assert set(parser.sections()) == {"program:energy", "eventlistener:energy-watchdog"}
    program, watchdog = parser["program:energy"], parser["eventlistener:energy-watchdog"]
    invariants(program, drain)
    assert float(program["stopwaitsecs"]) == math.ceil(drain) + 10
    assert shlex.split(program["command"])[-2:] == ["--config", str(project / "mqworker.toml")]
    assert shlex.split(watchdog["command"])[-4:] == ["--program", "energy", "--config", str(project / "mqworker.toml")]
    assert watchdog["events"] == "TICK_5"
    assert "MQWORKER_SERVICE__DRAIN_DEADLINE" in text


def test_a_part_of_the_stages_is_a_program_of_its_own(project):
    """`conf --stage` runs these stages, under a name that another part does not have."""
    (project / "mqworker.toml").write_text(STAGES)
    command = ["run", "--config", str(project / "mqworker.toml"), "--stage", "one", "--stage", "two"]
    parser = sections(mqworker("conf", "supervisor", "-s", "one", "-s", "two", "-s", "one", cwd=project).stdout)
    assert shlex.split(parser["program:mqworker-one-two"]["command"])[-7:] == command
    assert "--program mqworker-one-two" in parser["eventlistener:mqworker-one-two-watchdog"]["command"]
    assert f"{shlex.join(command)}\n" in mqworker("conf", "systemd", "-s", "one", "-s", "two", cwd=project).stdout


@pytest.mark.parametrize("manager", ["supervisor", "systemd"])
def test_conf_tells_what_a_part_needs_of_its_own(project, manager):
    """Two parts would otherwise have the same log, lock and port; nothing is said where they are set, or of a whole."""
    (project / "mqworker.toml").write_text(STAGES)
    own = {"MQWORKER_SERVICE__STATE_DIR": ".one", "MQWORKER_CONTROL__PORT": "5003"}
    mind = "Mind: beside another service here, this one needs its own "
    printed = mqworker("conf", manager, "-s", "one", cwd=project).stdout
    assert f"{mind}{' and '.join(own)};\n" in printed
    assert mind not in mqworker("conf", manager, "-s", "one", cwd=project, env=own).stdout
    assert mind not in mqworker("conf", manager, cwd=project).stdout
    for missing in own:
        rest = {name: value for name, value in own.items() if name != missing}
        assert f"{mind}{missing};\n" in mqworker("conf", manager, "-s", "one", cwd=project, env=rest).stdout


def test_check_of_a_part_of_the_stages(project):
    """Only these are checked; a name that no stage has, and an object that both parts share, fail with the reason."""
    (project / "mqworker.toml").write_text(STAGES)
    (project / "jobs.py").write_text(JOBS)
    code, lines = findings(project, None, "--stage", "three")
    assert (code, lines["stages"][0]) == (Exit.CONFIG, "fail"), "the other part does not have this broker"
    (project / "mqworker.toml").write_text('[broker]\nurl = "sqlite:///broker.db"\n' + STAGES)
    code, lines = findings(project, None, "--stage", "three")
    assert (code, "stages" in lines) == (Exit.OK, False)
    assert {what for what in lines if what.startswith("jobs")} == {"jobs three"}
    code, lines = findings(project, None, "--stage", "tree")
    assert code == Exit.CONFIG
    assert lines["configuration"][1] == "--stage tree: there is no such stage"
    assert lines["configuration"][2] == "known: one, two, three"
    code, lines = findings(project, None, "--stage", "one")
    assert code == Exit.CONFIG
    assert lines["shared jobs.Seen"][1].startswith("the shared object jobs.Seen is also used by stage two")
    code, lines = findings(project, None, "--stage", "one", "--stage", "two")
    assert code == Exit.OK


def test_conf_supervisor_tells_no_secret(project):
    """Variables that the service will need are listed without their values."""
    done = mqworker("conf", "supervisor", cwd=project, env={"MQWORKER_CONTROL__TOKEN": "canary"})
    assert "MQWORKER_CONTROL__TOKEN" in done.stdout
    assert "canary" not in done.stdout


def test_conf_supervisor_of_a_folder_with_a_blank_and_a_percent(project):
    """Paths are quoted for supervisord's shell-like splitting, and a percent sign is doubled."""
    odd = project.parent / "100% odd"
    project.rename(odd)
    parser = sections(mqworker("conf", "supervisor", cwd=odd).stdout)
    command = parser["program:mqworker"]["command"].replace("%%", "%")
    assert shlex.split(command)[-1] == str(odd / "mqworker.toml")
    assert parser["program:mqworker"]["directory"] == str(odd).replace("%", "%%")


def test_conf_systemd(project):
    """The unit parses, drains by sending TERM to the service only, and waits longer than the drain."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read_string(mqworker("conf", "systemd", cwd=project).stdout)
    service = parser["Service"]
    assert float(service["TimeoutStopSec"]) >= StopBudget(30).least
    assert service["KillMode"] == "mixed"
    assert service["KillSignal"] == "SIGTERM"
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "78"


def test_the_clones_own_supervisord_conf():
    """supervisord.conf in the root: private unix socket, no inet server, the invariants, the watchdog."""
    parser = sections((ROOT / "supervisord.conf").read_text())
    assert "inet_http_server" not in parser.sections()
    assert parser["unix_http_server"]["chmod"] == "0700"
    invariants(parser["program:mqworker"], 30.0)
    assert parser["eventlistener:watchdog"]["events"] == "TICK_5"
    assert "--program mqworker" in parser["eventlistener:watchdog"]["command"]
    assert parser["program:mqworker"]["directory"] == parser["eventlistener:watchdog"]["directory"]
