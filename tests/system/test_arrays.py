"""Arrays of numpy through whole stages: from a publisher to a reader, nested and alone."""

import base64

import numpy as np
import pytest

from mqworker import arrays
from mqworker.amqp.properties import Properties
from tests.support.embedded import INPUT, OUTPUT, Client
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

CONFIG = f"""
[service]
log_format = "json"
[control]
port = 0
[stages.first]
input = "{INPUT}"
jobs = ["jobs:note"]
output = "between"
codec = "msgpack"
consumers = 1
[stages.second]
input = "between"
jobs = ["jobs:note", "jobs:note"]
output = "{OUTPUT}"
codec = "msgpack"
consumers = 1
"""
JOBS = """
import numpy

def note(body):
    if isinstance(body, numpy.ndarray):
        return body
    body.setdefault("seen", []).append(str(body["arrays"]["times"].dtype))
    body["arrays"]["cubes"][0][0, 0, 0] += 1  # it may be changed in place
    return body
"""
ARRAYS = {
    "times": np.array(["2024-02-29T01:02:03.000000004", "NaT"], ">M8[ns]"),
    "cubes": [np.asfortranarray(np.arange(24, dtype=">f4").reshape(2, 3, 4)), np.zeros((0, 5), "c16")],
    "tracks": {"points": np.array([(1, b"a", (2.5, 3))], [("n", "<u2"), ("name", "S4"), ("at", ">f8", (2,))])},
    "one": np.array(7, "i1"),
}


def published(client: Client, body: bytes, content_type: str) -> None:
    block = Properties(content_type=content_type, message_id=f"{content_type}-1", delivery_mode=2).encode()
    client._runner.run(client._admin.send(INPUT, block, body, 20))


def test_nested_arrays_go_through_two_stages_unharmed(service):
    """The article says that nested arrays lose their data; through two stages of a service they lose nothing."""
    running = service(CONFIG, {"jobs.py": JOBS}).start()
    frame = np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3))
    with Client(running) as client:
        published(client, arrays.pack({"arrays": ARRAYS}), arrays.MSGPACK)
        published(client, arrays.to_npy(frame), arrays.NPY)
        wait_for(lambda: client.ready(OUTPUT) == 2, 60, "both results")
        found = client._runner.run(client._admin.peek(OUTPUT, 10, 20))
    by_type = {Properties.decode(each.properties).content_type: each.body for each in found}
    got = arrays.unpack(by_type[arrays.MSGPACK])
    assert got["seen"] == [">M8[ns]"] * 3
    changed = ARRAYS["cubes"][0].copy("K")
    changed[0, 0, 0] += 3
    flat = [got["arrays"]["times"], *got["arrays"]["cubes"], got["arrays"]["tracks"]["points"], got["arrays"]["one"]]
    sent = [ARRAYS["times"], changed, ARRAYS["cubes"][1], ARRAYS["tracks"]["points"], ARRAYS["one"]]
    flat.append(arrays.from_npy(by_type[arrays.NPY]))
    sent.append(frame)
    for one, other in zip(flat, sent, strict=True):
        assert (one.dtype, one.shape, one.flags.f_contiguous) == (other.dtype, other.shape, other.flags.f_contiguous)
        assert one.tobytes() == other.tobytes()
    assert running.stop() == 0


def test_the_command_line_shows_an_array_as_base64(service):
    """`send --wait` prints what the result's bytes are, and says of what type."""
    config = CONFIG.replace("jobs:note", "jobs:made").partition("[stages.second]")[0]
    jobs = "import numpy\ndef made(body): return numpy.arange(body['size'])\n"
    running = service(config, {"jobs.py": jobs}).start()
    answer = running.cli("send", "--content-type", "application/json", "--wait", '{"size": 3}')
    assert answer.returncode == 0, answer.stderr
    assert arrays.from_npy(base64.b64decode(answer.stdout)).tolist() == [0, 1, 2]
    assert "in base64: application/x-npy" in answer.stderr
    assert running.stop() == 0
