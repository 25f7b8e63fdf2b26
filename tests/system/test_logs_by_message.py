"""The life of a message can be followed: what is logged or printed about it has its id; who waits hears of it."""

import json
import re
import signal
import subprocess

import pytest

from mqworker.amqp.fingerprint import fingerprint
from mqworker.amqp.properties import Properties
from tests.support.embedded import DEAD, HANDLER, INPUT, OUTPUT, Client, Result, config
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

LOUD = """\
import logging, os, subprocess, sys, threading, warnings

warnings.simplefilter("always")


def handle(body, message, log):
    n = body["n"]
    log.info("logged %d", n)
    logging.getLogger("library").warning("logged %d", n)
    thread = threading.Thread(target=log.info, args=("logged %d", n))
    thread.start()
    thread.join()
    warnings.warn(f"logged {n}")
    print("printed", n)
    print("printed", n, file=sys.stderr)
    os.write(1, b"printed %d\\n" % n)
    if n % 10 == 0:
        subprocess.run(["echo", "printed", str(n)], check=True)
    print("printed", n, end="")
    if message.attempt <= body.get("failures", 0):
        raise ValueError(f"failed {n}")
    return {"n": n}
"""
RETRY = "retry = { max_attempts = 2, base = 1 }"
DEBUG = 'log_level = "debug"'


def test_whatever_is_logged_or_printed_carries_the_id_of_its_message(service):
    """Loggers, warnings, threads, print, native writes, programs, text without an end of line: never the wrong id."""
    running = service(config(consumers=2), {"jobs.py": LOUD}).start()
    with Client(running) as client:
        client.send(300)
        client.finish()
    assert running.stop() == 0
    told = [event for event in running.events() if re.match("(.*: )?(logged|printed) ", event["msg"].splitlines()[0])]
    assert len(told) == 300 * 8 + 30
    number = re.compile(r"(?:logged|printed) (\d+)")
    assert not [event for event in told if event.get("message_id", "") not in ("", *number.findall(event["msg"]))]
    logged = [event for event in told if event["event"] != "output"]
    assert {(event["attempt"], event["stage"]) for event in logged} == {(1, "work")}
    known = [event for event in told if "message_id" in event]
    assert len(known) > 0.9 * len(told)  # a line that is read while the message changes has none


def life(events, message_id):
    return [event for event in events if event.get("message_id") == message_id]


def words(events):
    """Return the events in short, with consecutive repeats and the attempts."""
    return [(event["event"], event["attempt"]) for event in events]


ATTEMPT = ["received", "begun", "log", "log", "log", "warning", "output", "output", "output", "output", "output"]


@pytest.fixture(scope="module")
def loud(module_service):
    """A service at level debug, and its client."""
    running = module_service(config(RETRY, service=DEBUG), {"jobs.py": LOUD}).start()
    with Client(running) as client:
        client.send(10)
        client.finish()
        yield running, client


def done(client: Client) -> int:
    return client.ready(OUTPUT) + client.ready(DEAD)


@pytest.mark.xdist_group("loud")
@pytest.mark.parametrize(("failures", "ends"), [(1, ["retried", "result"]), (2, ["retried", "dead"])])
def test_the_log_of_one_message_is_its_life(loud, failures, ends):
    """At level debug: received, begun, what it logged and printed, retried, all that again, and its end."""
    running, client = loud
    before = done(client)  # nothing else is computed: a line that is read while the message changes may be nobody's
    client.sent += -client.sent % 10  # a number for which a program prints too
    (n,) = client.send(1, failures=failures)
    wait_for(lambda: done(client) == before + 1, 60, "the message to end")
    shown = running.cli("logs", "--message", str(n), "--json")
    told = [json.loads(line) for line in shown.stdout.splitlines()]
    expected = [(event, attempt) for attempt, end in enumerate(ends, 1) for event in [*ATTEMPT, end]]
    assert sorted(words(told)) == sorted(expected)
    for attempt, end in enumerate(ends, 1):
        part = [event for event, number in words(told) if number == attempt]
        assert (part[0], part[-1]) == ("received", end)  # what is printed comes by another pipe than what is logged
    assert {event["stage"] for event in told} == {"work"}
    assert len(running.cli("logs", "-m", str(n), "-n", "3", "--json").stdout.splitlines()) == 3
    assert running.cli("logs", "-m", "nobody").stdout == ""
    grepped = subprocess.run(
        ["grep", f'"message_id": "{n}"', running.log], capture_output=True, text=True, check=True, timeout=60
    )
    assert [json.loads(line) for line in grepped.stdout.splitlines()] == told


def test_the_level_of_a_running_service_decides_what_of_a_life_is_told(service):
    """At info a message tells what it logs and how it fails; at debug, set while it runs, also its steps."""
    running = service(config(RETRY), {"jobs.py": LOUD}).start()
    with Client(running) as client:
        (first,) = client.send(1)
        client.finish()
        assert {event["event"] for event in life(running.events(), str(first))} == {"log", "warning", "output"}
        done = running.cli("log-level", "debug")
        assert (done.returncode, "log level debug" in done.stderr) == (0, True), done.stderr
        (second,) = client.send(1)
        client.finish()
        wait_for(lambda: "result" in {one["event"] for one in life(running.events(), str(second))}, 20, "its end")
    assert {event["event"] for event in life(running.events(), str(second))} == {*ATTEMPT, "result"}


@pytest.mark.xdist_group("loud")
def test_a_message_without_an_id_is_told_by_the_id_of_its_result(loud):
    """The id in the log, of every attempt, is derived from the content as it first came; its result carries it."""
    running, client = loud
    body, block = b'{"n": 50, "failures": 1}', Properties(content_type="application/json").encode()
    client._runner.run(client._admin.send(INPUT, block, body, 20))

    def derived() -> list[Result]:
        return [one for one in client.results() if "x-mqworker-derived-id" in one.properties.headers]

    (result,) = wait_for(derived, 30, "the result")
    assert result.properties.message_id == fingerprint(block, body).hex()[:32]
    assert result.properties.headers["x-mqworker-derived-id"] is True
    told = life(running.events(), result.properties.message_id)
    expected = [(event, attempt) for attempt, end in ((1, "retried"), (2, "result")) for event in [*ATTEMPT, end]]
    assert sorted(words(told)) == sorted(expected)


def test_a_message_whose_id_is_not_utf_8_is_a_message_like_any_other(service):
    """It prints, is shown in the status, and is computed once; its id is told with escapes, and found either way."""
    loud = HANDLER.replace("    began =", "    print('computing')\n    began =", 1)
    running = service(config(), {"jobs.py": loud}).start()
    raw = bytes.fromhex("ffee112233445566778899aabbccddfe").decode("utf-8", "surrogateescape")
    shown = raw.encode("utf-8", "backslashreplace").decode()
    block = Properties(content_type="application/json", message_id=raw).encode()
    with Client(running) as client:
        client._runner.run(client._admin.send(INPUT, block, b'{"n": 0, "until": "released"}', 20))
        client.sent += 1

        def in_hand() -> bool:
            return shown in [one["message_id"] for one in running.stage("work")["actual"]["consumers"]]

        wait_for(in_hand, 30, "the message to be shown in the status")
        running.write("released", "")
        (result,) = client.finish()
        assert result.properties.message_id == raw
        assert running.stage("work")["restarts"] == 0
        for given in (raw, shown):
            assert "computing" in running.cli("logs", "--message", given).stdout
    assert running.stop() == 0
    told = [event["message_id"] for event in running.events() if event["msg"] == "computing"]
    assert told == [shown]


FAILING = """\
from pathlib import Path


def handle(body):
    if not Path(__file__).with_name("released").exists():
        raise ValueError(f"not yet\\x1b[31m {body['n']}")
    return body
"""
SECOND = """
[stages.second]
input = "{queue}.out"
jobs = ["jobs:handle"]
retry = {{ base = 1 }}
"""


@pytest.mark.parametrize(
    "broker", ["embedded", pytest.param("rabbitmq", marks=[pytest.mark.rabbitmq, pytest.mark.release])]
)
def test_who_waits_for_a_result_hears_of_each_failed_attempt(request, service, broker):
    """`send --wait` tells attempt, cause and delay while it waits, for its stage alone; then the result."""
    queue, url = INPUT, ""
    if broker == "rabbitmq":
        queue = request.getfixturevalue("queue")
        url = f'[broker]\nurl = "{request.getfixturevalue("rabbit").url()}"\n'
    text = config("retry = { max_attempts = 50, base = 1, max = 1 }").replace(f'"{INPUT}"', f'"{queue}"')
    text = url + text.replace(f'"{OUTPUT}"', f'"{queue}.out"') + SECOND.format(queue=queue)
    running = service(text, {"jobs.py": FAILING}).start()
    command = [*running.command, "send", '{"n": 7}', "--wait", "--stage", "work"]
    with subprocess.Popen(
        command, cwd=running.folder, env=running.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as sender:
        assert sender.stdout is not None
        assert sender.stderr is not None
        for attempt in (1, 2):
            expected = f"attempt {attempt} failed: error: ValueError: not yet\\x1b[31m 7; tried again in 1 s\n"
            assert sender.stderr.readline() == expected
        running.write("released", "")
        assert json.loads(sender.stdout.read()) == {"n": 7}
        *_, last = sender.stderr.read().splitlines()
        assert last.startswith("after ")
        assert sender.wait(30) == 0
    quick = running.cli("send", '{"n": 8}', "--wait", "--stage", "work")
    assert (quick.returncode, quick.stderr.count("\n")) == (0, 1)


DYING = """\
import os


def handle(body):
    os.write(2, b"last words\\n" + b"without an end")
    os._exit(3)
"""


def test_last_words_carry_the_id_of_the_message_that_killed(service):
    """What a Consumer printed before it died carries the message's id, and comes before what becomes of the message."""
    running = service(config("crash = { max = 1 }", consumers=1), {"jobs.py": DYING}).start()
    with Client(running) as client:
        (n,) = client.send(1)
        wait_for(lambda: client.ready(DEAD) == 1, 30, "the dead letter")
    told = [(event["event"], event["msg"]) for event in life(running.events(), str(n))]
    assert told[:2] == [("output", "last words"), ("output", "without an end")]
    assert [event for event, _ in told[2:]] == ["dead"]


PRINTS = """\
def handle(body):
    for number in range(body["lines"]):
        print("line", number)
    return {"n": body["n"]}
"""


def test_lines_that_cannot_be_taken_in_time_are_counted(service):
    """While the Service stands still a handler prints more than is kept: the log tells how many lines are missing."""
    running = service(config(consumers=1), {"jobs.py": PRINTS}).start()
    with Client(running) as client:
        running.signal(signal.SIGSTOP)
        client.send(1, lines=50_000)
        wait_for(lambda: client.ready(OUTPUT) == 1, 30, "its result")
        running.signal(signal.SIGCONT)
        wait_for(lambda: told(running, "logs_dropped"), 20, "the count of what was dropped")
    assert running.stop() == 0
    dropped = sum(int(event["msg"].split()[0]) for event in told(running, "logs_dropped"))
    lines = [event["msg"] for event in told(running, "output") if event["msg"].startswith("line ")]
    assert 0 < len(lines) < 50_000
    assert dropped >= 50_000 - len(lines)
    assert lines == sorted(lines, key=lambda line: int(line.split()[1]))


def told(service, name: str) -> list[dict]:
    """Return the events of this name in the log."""
    return [event for event in service.events() if event["event"] == name]
