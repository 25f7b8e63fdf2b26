"""Programs in the chain of a running stage: results, failures, limits, who names them, and who survives whom."""

import json
import os
import signal

import pytest

from mqworker.exits import Exit
from tests.support.embedded import DEAD, OUTPUT, Client, config, put
from tests.support.service import ServiceProcess, gone
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

JOBS = """\
def question(body):
    return body

def answer(body, message):
    return body | {"attempt": message.attempt, "crashes": message.headers.get("x-mqworker-crashes", 0)}
"""
SOLVER = """\
#!/bin/sh
# Prints the message with one more field, or does what the field `how` says.
body=$(cat)
case $body in
  *reject*) echo "this one never" >&2; exit 65 ;;
  *later*) [ "$MQWORKER_ATTEMPT" -gt 1 ] || exit 75 ;;
  *fail*) echo "it went wrong" >&2; exit 3 ;;
  *hang*) trap '' TERM; sleep 1000 ;;
esac
echo "looking at $MQWORKER_MESSAGE_ID of $MQWORKER_STAGE" >&2
echo "${body%\\}}, \\"id\\": \\"$MQWORKER_MESSAGE_ID\\"}"
"""


def programs(*lines: str, jobs: str = '["jobs:question", { exec = ["./solver"] }, "jobs:answer"]', **more: int) -> str:
    """Return a configuration with programs among its jobs."""
    return config(*lines, **more).replace('["jobs:handle"]', jobs)


def started(service, *lines: str, **more) -> ServiceProcess:
    """Start a service with the solver."""
    running = service(programs(*lines, **more), {"jobs.py": JOBS, "solver": SOLVER})
    (running.folder / "solver").chmod(0o755)
    return running.start()


def said(service: ServiceProcess, word: str) -> list[dict]:
    """Return the events of a kind so far."""
    return [event for event in service.events() if event["event"] == word]


def test_a_program_in_the_middle_of_a_chain(service):
    """Between two Python jobs: its result goes on; 65 is dead at once, 75 comes again, else an error with stderr."""
    running = started(service, "retry = { max_attempts = 2, base = 1 }")
    with Client(running) as client:
        client.send(20)
        for how in ("reject", "later", "fail"):
            client.send(1, how=how)
        wait_for(lambda: client.ready(OUTPUT) == 21 and client.ready(DEAD) == 2, 60, "all outcomes")
        results = {one.body["n"]: one.body for one in client.results()}
        assert sorted(results) == [*range(20), 21]
        assert all(body["id"] == str(n) for n, body in results.items())
        assert [body["attempt"] for body in results.values() if body["attempt"] > 1] == [2]
        dead = {int(one.properties.message_id): dict(one.properties.headers) for one in client.results(DEAD)}
    assert (dead[20]["x-mqworker-reason"], dead[20]["x-mqworker-message"]) == ("reject", "this one never")
    assert (dead[22]["x-mqworker-reason"], dead[22]["x-mqworker-attempt"]) == ("error", 2)
    assert dead[22]["x-mqworker-error-type"] == "mqworker.errors.ProgramError"
    assert "./solver exited with code 3, peak memory" in dead[22]["x-mqworker-message"]
    assert "it went wrong" in dead[22]["x-mqworker-traceback"]
    lines = {event["message_id"]: event["msg"] for event in said(running, "output") if "looking" in event["msg"]}
    assert lines == {str(n): f"looking at {n} of work" for n in results}
    assert running.stop() == 0
    assert not [event for event in said(running, "consumer_ended") if event["level"] != "debug"]


def test_a_program_alone_gets_the_body_as_it_came(service):
    """The first job gets the bytes of the body, whatever its content type says."""
    running = service(programs('codec = "text"', jobs='[{ exec = ["cut", "-c1-9"] }]'), {})
    running.start()
    with Client(running) as client:
        client.send_raw([b'{"n": not JSON', b'{"n": 10 }...'])
        wait_for(lambda: client.ready(OUTPUT) + client.ready(DEAD) == 2, 30, "both results")
        found = client._runner.run(client._admin.peek(OUTPUT, 10, 20))
        assert sorted(each.body for each in found) == [b'{"n": 10 \n', b'{"n": not\n']
    assert running.stop() == 0


def test_a_hard_limit_kills_the_program_alone(service):
    """Its Consumer lives on and charges nobody; the message is a timeout, and its neighbours have their results."""
    running = started(service, "time_limit = { soft = 0.5, hard = 1 }", "retry = { max_attempts = 1 }", consumers=1)
    with Client(running) as client:
        client.send(3)
        client.send(1, how="hang")
        client.send(3)
        wait_for(lambda: client.ready(OUTPUT) == 6 and client.ready(DEAD) == 1, 60, "all outcomes")
        (letter,) = client.results(DEAD)
        headers = dict(letter.properties.headers)
        assert {(one.body["attempt"], one.body["crashes"]) for one in client.results()} == {(1, 0)}
    assert headers["x-mqworker-reason"] == "timeout"
    assert headers["x-mqworker-error-type"] == "mqworker.errors.HardTimeLimit"
    assert "x-mqworker-crashes" not in headers
    assert not [pid for pid, name in running.pids().items() if name == "sleep"]
    assert not said(running, "consumer_ended")
    assert running.stop() == 0


BREEDER = """\
#!/bin/sh
[ -e killed ] && echo '{"n": 0}' && exit
setsid sleep 1000 &
(sleep 1000 &)
(setsid sh -c 'sleep 1000 & sleep 1000' &)
sleep 1000
"""


def bred(service: ServiceProcess) -> list[int]:
    """Return the pids of what the program has started."""
    return [pid for pid, name in service.pids().items() if name == "sleep"]


@pytest.mark.parametrize("who", ["keeper", "consumer", "producer", "service"])
def test_nothing_that_a_program_started_outlives_whom_it_runs_for(service, who):
    """Kill the keeper, the Consumer, the Producer or the Service: all that the program started is gone within 3 s."""
    files = {"jobs.py": JOBS, "breeder": BREEDER}
    running = service(programs(jobs='[{ exec = ["./breeder"] }]', consumers=1), files)
    (running.folder / "breeder").chmod(0o755)
    running.start()
    with Client(running) as client:
        client.send(1)
        wait_for(lambda: len(bred(running)) == 5, 30, "the program to breed")
        before = set(bred(running))
        (running.folder / "killed").touch()
        pid = running.process.pid if who == "service" else running.named(f"mqw-{who}")[0]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not before & set(bred(running)), 3, "everything to be gone")
        if who == "service":
            gone(running)
            assert running.wait() == -signal.SIGKILL
            running.start()
        client.finish()
    assert running.stop() == 0
    gone(running)


def test_a_program_that_leaves_something_costs_nobody_anything(service):
    """What it leaves is killed with its message, and told; the next message has the same Consumer."""
    running = service(programs(jobs="""[{ exec = ["sh", "-c", "setsid sleep 1000 & cat"], name = "leaver" }]"""), {})
    running.start()
    with Client(running) as client:
        client.send(10)
        client.finish()
        wait_for(lambda: len(said(running, "program_left")) == 10, 10, "all to be told")
    assert not [pid for pid, name in running.pids().items() if name == "sleep"]
    assert {event["message_id"] for event in said(running, "program_left")} == {str(n) for n in range(10)}
    assert not said(running, "consumer_ended")
    assert not said(running, "orphan_killed")
    assert running.stop() == 0


def test_programs_are_named_in_the_configuration_only(service):
    """Over HTTP those that are there are moved, disabled, removed and rolled back; another one is refused."""
    running = started(service, jobs='["jobs:question", { exec = ["./solver"], name = "solve" }]')
    path, solver = "/api/v1/stages/work/jobs", 'exec:["./solver"]'
    with Client(running) as client:

        def result() -> dict:
            before = client.ready(OUTPUT)
            client.send(1)
            wait_for(lambda: client.ready(OUTPUT) > before, 30, "a result")
            return client.results()[-1].body

        assert "id" in result()
        for method, at, body in (
            ("PUT", path, {"jobs": ["jobs:question", 'exec:["rm","-rf","/nowhere"]']}),
            ("PUT", path, {"jobs": [{"job": 'exec:["./solver","--more"]', "name": "solve"}]}),
            ("PUT", path, {"jobs": ["exec:[what]"]}),
            ("POST", path, {"job": solver}),
            ("POST", path, {"job": 'exec:["sh"]'}),
            ("PUT", path, {"jobs": [{"exec": ["sh"]}]}),
        ):
            status, told = running.ask(method, at, body)
            assert status == 422, told
        assert (
            "programs are named in the configuration"
            in running.ask("PUT", path, {"jobs": ['exec:["sh"]']})[1]["detail"]
        )
        put(running, "jobs/solve", {"enabled": False}, "PATCH")
        assert "id" not in result()
        put(running, "jobs/solve", {"enabled": True}, "PATCH")
        assert "id" in result()
        put(running, "jobs", {"jobs": [solver, "jobs:question"]})
        assert "id" in result()
        listed = running.cli("jobs", "list")
        assert "./solver" in listed.stdout
        assert "exec:" not in listed.stdout
        assert running.cli("jobs", "remove", "solver").returncode == 0
        assert "id" not in result()
        assert running.cli("rollback").returncode == 0
        assert "id" in result()
        assert running.stop() == 0
        running.start()
        assert "id" in result()
    assert running.stop() == 0


def test_check_names_a_program_that_cannot_be_run(service):
    """`mqworker check` says which file is missing or not executable; a service with it does not start."""
    running = service(programs(), {"jobs.py": JOBS})
    checked = running.cli("check", "--json")
    assert checked.returncode == Exit.CONFIG
    assert f"program ./solver: there is no file {running.folder}/solver" in checked.stdout
    running.write("solver", SOLVER)
    assert "is not executable" in running.cli("check").stdout
    (running.folder / "solver").chmod(0o755)
    checked = running.cli("check", "--json")
    assert checked.returncode == 0, checked.stdout
    assert any("jobs:question, ./solver, jobs:answer" in json.dumps(each) for each in json.loads(checked.stdout))
