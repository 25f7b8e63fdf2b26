"""Dead letters from end to end, as an operator handles a thousand of them: list, show, replay, drop, export."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.support import embedded
from tests.support.foreign import Client
from tests.support.service import ServiceProcess
from tests.support.waiting import Patience, wait_for
from tests.system.stage import config, settled

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

SOME = 1_500  # enough for a kill in the midst of them
DOUBLED = 100  # letters at most that a kill leaves in both queues
HANDLER = """
from pathlib import Path

from mqworker import Reject

FIXED = Path(__file__).parent / "fixed"


def handle(body):
    if FIXED.exists():
        return body
    if body["why"] == "error":
        raise ValueError("not yet")
    raise Reject("never")
"""
DLQ = "/api/v1/stages/work/dlq"


def letters(service: ServiceProcess) -> list[dict]:
    """Return all dead letters, as listed."""
    status, told = service.ask("GET", f"{DLQ}?limit=10000")
    assert status == 200, told
    return told["dead_letters"]


def dead(service: ServiceProcess, count: int) -> list[dict]:
    """Wait until there are this many."""
    found: list[dict] = []

    def so_many() -> bool:
        found[:] = letters(service)
        return len(found) == count

    wait_for(so_many, 60, f"{count} dead letters")
    return found


def replay(service: ServiceProcess, *arguments: str) -> int:
    """Return how many `mqworker dlq replay` reports as sent back."""
    done = service.cli("dlq", "replay", *arguments)
    assert done.returncode == 0, done.stderr
    return int(re.search(r"(\d+) (?:sent|would go) back", done.stderr)[1])


def begin(service, url: str, name: str, *lines: str) -> ServiceProcess:
    settings = config(url, name, "retry = { max_attempts = 1 }", *lines)
    return service(settings, {"jobs.py": HANDLER}).start()


def by_id(found: list[dict]) -> list[dict]:
    return sorted(found, key=lambda letter: letter["id"])


def look_and_replay(running: ServiceProcess, many: int, looks: int) -> None:
    """Do everything that is possible while the handler still fails; finally all are dead as before."""
    first = dead(running, many)
    errors = many * 7 // 10
    assert [letter["reason"] for letter in first].count("error") == errors
    for _ in range(looks):
        again = letters(running)
        assert [letter["failed_at"] for letter in again] == sorted(letter["failed_at"] for letter in first)
        assert by_id(again) == by_id(first), "looking has changed something"
    shown = running.cli("dlq", "show", first[0]["id"])
    assert shown.returncode == 0, shown.stderr
    assert "not yet" in shown.stdout or "never" in shown.stdout
    assert replay(running, "--reason", "error", "--dry-run") == errors
    assert replay(running, "--reason", "reject", "--limit", "3", "--dry-run") == 3
    assert by_id(letters(running)) == by_id(first)
    assert replay(running, "--reason", "reject", "--limit", "5") == 5
    again = dead(running, many)
    assert [letter["reason"] for letter in again if letter.get("replayed") == 1] == ["reject"] * 5
    # Each once, although every one of them is back in the queue before this is over.
    status, told = running.ask("POST", f"{DLQ}/replay", {})
    assert (status, told) == (200, {"replayed": many})
    history = sorted(letter["replayed"] for letter in dead(running, many))
    assert history == [1] * (many - 5) + [2] * 5
    grouped = running.cli("dlq", "groups", "--json")
    assert {(group["error_type"], group["count"]) for group in json.loads(grouped.stdout)["work"]} == {
        ("ValueError", errors),
        ("mqworker.errors.Reject", many - errors),
    }
    exported = running.cli("dlq", "export")
    assert len(exported.stdout.splitlines()) == many, exported.stderr
    numbers = {
        json.loads(base64.b64decode(json.loads(line)["body_base64"]))["n"] for line in exported.stdout.splitlines()
    }
    assert numbers == set(range(many))


def drop_and_send_all_back(running: ServiceProcess, many: int) -> set[str]:
    """Drop ten; with a handler that works, send one back by id, some at a rate, then all; return the dropped ones."""
    before = letters(running)
    gone = before[:10]
    dropped = running.cli("dlq", "drop", "--yes", *(letter["id"] for letter in gone))
    assert "10 removed" in dropped.stderr, dropped.stderr
    running.write("fixed", "")
    assert replay(running, before[many // 2]["id"]) == 1
    began = time.monotonic()
    assert replay(running, "--reason", "error", "--limit", "60", "--rate", "60") == 60
    assert time.monotonic() - began >= 0.75
    left = dead(running, many - 71)
    assert before[many // 2]["id"] not in {letter["id"] for letter in left}
    missing = running.cli("dlq", "replay", before[many // 2]["id"])
    assert missing.returncode == 2, missing.stderr
    assert replay(running, "--all") == many - 71
    listed = running.cli("operations", "list")
    assert f"{many - 71} of {many - 71}" in listed.stdout.splitlines()[-1], listed.stdout
    dead(running, 0)
    return {letter["message_id"] for letter in gone}


def restored(rabbit, queue: str, client: Client, running: ServiceProcess) -> None:
    """Assert that a replayed message has all that the original had, and its history, but nothing of the failure."""
    original = {
        "message_id": "rich", "correlation_id": "c", "expiration": "3600000", "app_id": "foreign", "priority": 3,
        "type": "t", "timestamp": 1_700_000_000, "content_type": "application/json",
    }  # fmt: skip
    client.publish(queue, b'{"n": -1, "why": "error"}', headers={"tenant": "t", "CC": []}, **original)
    (letter,) = dead(running, 1)
    assert running.ask("PUT", "/api/v1/stages/work/listening?wait=30", {"enabled": False})[0] == 200
    assert replay(running, letter["id"]) == 1
    settled(rabbit, queue, ready=1)
    (got,) = client.take(queue, 1, 20)
    assert {name: getattr(got.properties, name) for name in original} == original
    assert got.body == b'{"n": -1, "why": "error"}'
    headers = {name: value for name, value in got.headers.items() if name != "x-delivery-count"}
    assert headers.pop("x-mqworker-first-failed-at")
    assert headers.pop("x-mqworker-failed-at")
    assert headers == {"tenant": "t", "CC": [], "x-mqworker-replayed": 1}
    assert running.ask("PUT", "/api/v1/stages/work/listening?wait=30", {"enabled": True})[0] == 200


@pytest.mark.parametrize(
    ("kind", "many", "looks"), [pytest.param("classic", 1_000, 2, marks=pytest.mark.release), ("quorum", 120, 25)]
)
def test_many_dead_letters_on_rabbitmq(rabbit, queue, service, kind, many, looks):
    """Looking 25 times changes nothing; replay is filtered, limited, paced, dry, each once; finally none is lost."""
    running = begin(service, rabbit.url(), queue, f'queue_type = "{kind}"')
    with Client(rabbit.url()) as client:
        restored(rabbit, queue, client, running)
        for n in range(many):
            why = "error" if n < many * 7 // 10 else "reject"
            client.publish(queue, json.dumps({"n": n, "why": why}).encode(), message_id=str(n))
        look_and_replay(running, many, looks)
        dropped = drop_and_send_all_back(running, many)
        results = [json.loads(got.body)["n"] for got in client.take(f"{queue}.out", many - 10, 30)]
        settled(rabbit, queue)
        assert client.rest(f"{queue}.out") == []
    assert sorted(results) == sorted(set(range(many)) - set(map(int, dropped)))
    assert running.stop() == 0


@pytest.mark.parametrize("many", [300, pytest.param(1_000, marks=pytest.mark.release)])
def test_many_dead_letters_on_the_embedded_broker(service, many):
    """The same without a server."""
    running = begin(service, "sqlite:///.mqworker/broker.db", embedded.INPUT, 'output = { queue = "out" }')
    with embedded.Client(running) as client:
        client.send(many * 7 // 10, why="error")
        client.send(many * 3 // 10, why="reject")
        look_and_replay(running, many, 25)
        dropped = drop_and_send_all_back(running, many)
        wait_for(lambda: client.ready(embedded.OUTPUT) == many - 10, 30, "all results")
        results = [result.body["n"] for result in client.results()]
    assert sorted(results) == sorted(set(range(many)) - set(map(int, dropped)))
    assert running.stop() == 0


@pytest.mark.parametrize("kind", [pytest.param("classic", marks=pytest.mark.release), "quorum"])
def test_a_broker_admin_killed_in_a_replay_loses_nothing(rabbit, queue, service, kind):
    """kill -9 of the broker admin in a replay: the verb fails with its count; none is lost, at most 100 are doubled."""
    running = begin(service, rabbit.url(), queue, f'queue_type = "{kind}"')
    with Client(rabbit.url()) as client:
        wait_for(lambda: running.ask("GET", DLQ)[0] == 200, 30, "the queues to be made")
        for n in range(SOME):
            client.publish(f"{queue}.dlq", json.dumps({"n": n, "why": "error"}).encode(), message_id=str(n))
        dead(running, SOME)
        assert running.ask("PUT", "/api/v1/stages/work/listening?wait=30", {"enabled": False})[0] == 200
        (admin,) = running.named("mqw-admin")
        command = [sys.executable, "-m", "mqworker", "dlq", "replay", "--all"]
        verb = subprocess.Popen(command, cwd=running.folder, env=running.env, stderr=subprocess.PIPE, text=True)
        try:
            patience = Patience(30)
            while client.ready(queue) <= DOUBLED:  # without a pause: the replay lasts half a second
                assert not patience.over()
            os.kill(admin, signal.SIGKILL)
            _, told = verb.communicate(timeout=60)
        finally:
            verb.kill()
            verb.communicate()
        assert verb.returncode not in (0, 2), told
        assert "sent back to the input" in told
        assert "Traceback" not in told
        running.write("fixed", "")
        wait_for(lambda: running.ask("GET", DLQ)[0] == 200, 20, "a new broker admin")
        left = letters(running)  # none only if this process was kept off the processor for the rest of the replay
        assert SOME - client.ready(queue) <= len(left) < SOME
        assert not left or replay(running, "--all") == len(left)
        assert running.ask("PUT", "/api/v1/stages/work/listening?wait=30", {"enabled": True})[0] == 200
        results = [json.loads(got.body)["n"] for got in client.take(f"{queue}.out", SOME, 30)]

        def all_there() -> bool:  # the doubled ones were first
            results.extend(json.loads(got.body)["n"] for got in client.rest(f"{queue}.out"))
            return set(results) == set(range(SOME))

        wait_for(all_there, 30, "a result of each")
        assert running.stop() == 0
        assert len(results) + client.ready(queue) + client.ready(f"{queue}.out") <= SOME + DOUBLED


def test_a_service_that_is_stopped_in_a_replay_doubles_nothing(rabbit, queue, service):
    """TERM in the midst of it: each letter is in one of the two queues, and the log says how many have gone."""
    running = begin(service, rabbit.url(), queue)
    with Client(rabbit.url()) as client:
        wait_for(lambda: running.ask("GET", DLQ)[0] == 200, 30, "the queues to be made")
        assert running.ask("PUT", "/api/v1/stages/work/listening?wait=30", {"enabled": False})[0] == 200
        for n in range(2 * SOME):
            client.publish(f"{queue}.dlq", json.dumps({"n": n, "why": "error"}).encode(), message_id=str(n))
        dead(running, 2 * SOME)
        _, selected = running.ask("POST", f"{DLQ}/selections", {})
        path = f"{DLQ}/selections/{selected['selection']}/replay"
        assert running.ask("POST", path, {"count": selected["count"]})[0] == 202
        wait_for(lambda: client.ready(queue) > 50, 30, "the replay to be under way")
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        ended = running.event("bulk_done")
        assert (ended["state"], ended["done"], ended["unsure"]) == ("cancelled", client.ready(queue), 0)
        assert client.ready(queue) + client.ready(f"{queue}.dlq") == 2 * SOME
