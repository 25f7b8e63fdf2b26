"""Signed pickles through a whole service: what a key has signed is loaded, also when it comes again."""

import base64
import json
import pickle
import subprocess
import sys

import pytest

from mqworker import signing
from mqworker.amqp.headers import MESSAGE, REASON, SIGNATURE
from mqworker.amqp.properties import Headers, Properties
from tests.support import foreign
from tests.support.embedded import DEAD, INPUT, OUTPUT, Client
from tests.support.environment import plain
from tests.support.waiting import wait_for
from tests.system.stage import config

pytestmark = pytest.mark.system

KEY = "canary-canary-canary-canary-canary"
CONFIG = f"""
[service]
log_format = "json"
log_level = "debug"
[control]
port = 0
[stages.first]
input = "{INPUT}"
jobs = ["jobs:step"]
output = "between"
codec = "pickle"
consumers = 1
[stages.second]
input = "between"
jobs = ["jobs:step"]
output = "{OUTPUT}"
codec = "pickle"
consumers = 1
"""
SHAPES = """
class Track:
    def __init__(self, name):
        self.name, self.seen = name, []
"""
JOBS = """
from pathlib import Path
from mqworker import Reject
from shapes import Track

def step(track, message):
    assert type(track) is Track
    if track.name == "retried" and message.attempt == 1:
        raise OSError("once")
    if track.name == "replayed" and not Path(__file__).with_name("ready").exists():
        raise Reject("not ready")
    track.seen.append(message.attempt)
    return track
"""
MAKE = "import pickle, sys, shapes; sys.stdout.buffer.write(pickle.dumps(shapes.Track(sys.argv[1])))"
READ = "import pickle, sys; track = pickle.load(sys.stdin.buffer); print(type(track).__name__, track.name, track.seen)"


def test_what_a_key_has_signed_is_loaded_and_nothing_else(service, tmp_path):
    """Objects of the user's classes pass two stages; what no key has signed is dead, never loaded; no key is shown."""
    key, canary = tmp_path / "key", tmp_path / "canary"
    key.write_text(f"{KEY}\n")
    key.chmod(0o600)
    variables = {f"MQWORKER_STAGES__{stage}__PICKLE_KEY_FILE": str(key) for stage in ("FIRST", "SECOND")}
    running = service(CONFIG, {"jobs.py": JOBS, "shapes.py": SHAPES}, **variables).start()

    def user_code(code: str, *arguments: str, data: bytes = b"") -> bytes:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(
            command, cwd=running.folder, env=plain(), input=data, capture_output=True, timeout=60, check=True
        )
        return done.stdout

    evil = pickle.dumps(_Maker(str(canary)))
    bodies = {name: user_code(MAKE, name) for name in ("plain", "retried", "replayed")}
    messages = [(name, body, signing.sign(body, KEY)) for name, body in bodies.items()]
    messages += [
        ("unsigned", evil, None),
        ("altered", evil, signing.sign(evil + b" ", KEY)),
        ("another-key", evil, signing.sign(evil, "x" * 32)),
    ]
    with Client(running) as client:
        for name, body, signature in messages:
            table = {} if signature is None else {SIGNATURE: signature}
            block = Properties(
                content_type=signing.CONTENT_TYPE, headers=Headers(table), message_id=name, delivery_mode=2
            ).encode()
            client._runner.run(client._admin.send(INPUT, block, body, 20))
        wait_for(lambda: (client.ready(OUTPUT), client.ready(DEAD)) == (2, 4), 60, "two results, four dead letters")

        dead = {each.message_id: each for each in map(_decoded, client._runner.run(client._admin.peek(DEAD, 9, 20)))}
        assert {name: each.headers[REASON] for name, each in dead.items()} == {
            "unsigned": "undecodable",
            "altered": "undecodable",
            "another-key": "undecodable",
            "replayed": "reject",
        }
        assert "without a signature" in dead["unsigned"].headers[MESSAGE]
        assert "is wrong" in dead["altered"].headers[MESSAGE]
        assert not canary.exists()

        (running.folder / "ready").touch()
        (letters,) = json.loads(running.cli("dlq", "list", "--stage", "first", "--json").stdout).values()
        (letter,) = [each["id"] for each in letters if each["message_id"] == "replayed"]
        told = running.cli("dlq", "replay", "--stage", "first", letter)
        assert told.returncode == 0, told.stderr
        wait_for(lambda: client.ready(OUTPUT) == 3, 60, "the replayed one")

        shown = {}
        for each in client._runner.run(client._admin.peek(OUTPUT, 9, 20)):
            properties = _decoded(each)
            signing.verify(each.body, properties.headers[SIGNATURE], KEY)
            shown[properties.message_id] = user_code(READ, data=each.body).decode().strip()
        assert shown == {
            "plain": "Track plain [1, 1]",
            "retried": "Track retried [2, 2]",
            "replayed": "Track replayed [1, 1]",
        }
    told = [running.cli("config", "show", "--origin"), running.cli("check"), running.cli("status", "--json")]
    secrets = [KEY, base64.b64encode(KEY.encode()).decode()[:20]]
    for text in (running.log.read_text(), *(each.stdout + each.stderr for each in told)):
        assert not any(secret in text for secret in secrets)
    assert "whoever has the key runs code" in running.log.read_text()
    assert running.stop() == 0


@pytest.mark.rabbitmq
def test_the_publishers_helper_is_for_pika(rabbit, queue, service):
    """What the documents show: body and properties for pika; the result is read with the header that it has."""
    settings = config(rabbit.url(), queue, 'codec = "pickle"', f'pickle_key = ["{KEY}"]', consumers=1)
    running = service(settings, {"jobs.py": "def handle(body): return body | {2j}\n"}).start()
    body, properties = signing.pickled({1, (2,)}, KEY)
    with foreign.Client(rabbit.url()) as client:
        client.publish_to("", queue, body, **properties)
        (got,) = client.take(f"{queue}.out", 1, 60)
    assert signing.unpickled(got.body, got.headers[SIGNATURE], KEY) == {1, (2,), 2j}
    assert running.stop() == 0


class _Maker:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def _decoded(stored) -> Properties:
    return Properties.decode(stored.properties)
