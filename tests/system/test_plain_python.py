"""User code finds in a Consumer what it finds in any Python process."""

import signal
import sys
from pathlib import Path

import pytest

from tests.support.embedded import DEAD, OUTPUT, Client, config
from tests.support.waiting import wait_for

pytestmark = pytest.mark.system

HANDLER = """\
import atexit, logging, logging.config, multiprocessing, os, pathlib, signal, sys, time

multiprocessing.set_start_method("fork")  # an error where somebody has chosen already
atexit.register(lambda: pathlib.Path("atexit").write_text("done"))


def spin(_):
    while True:
        time.sleep(60)


def handle(body, log):
    match body["how"]:
        case "terminate":
            child = multiprocessing.Process(target=spin, args=(0,))
            child.start()
            child.terminate()
            child.join(20)
            return {"code": child.exitcode}
        case "pool":
            with multiprocessing.Pool(2) as pool:
                pool.map_async(spin, range(2))
            return {"left": True}
        case "name":
            reading, writing = os.pipe()
            if not os.fork():
                os.write(writing, pathlib.Path("/proc/self/comm").read_bytes())
                os._exit(0)
            return {"comm": os.read(reading, 20).decode().strip()}
        case "log in a fork":
            if not os.fork():
                logging.getLogger("forked").warning("x" * 100_000)
                os._exit(0)
            return {"pid": os.wait()[1]}
        case "silence":
            logging.config.dictConfig({"version": 1})
            logging.basicConfig(force=True, level="ERROR")
            logging.disable(logging.CRITICAL)
        case "environment":
            return {"safe": os.environ.get("PYTHONSAFEPATH"), "root": os.getcwd()}
    log.warning("said %s", body["n"])
    return {"said": body["n"]}
"""


def test_user_code_finds_plain_python(service):
    """Forked children can be ended and have their own name, logging cannot be silenced, atexit runs; nobody dies."""
    running = service(config(consumers=1), {"jobs.py": HANDLER}).start()
    with Client(running) as client:
        for how in ("terminate", "pool", "name", "log in a fork", "silence", "environment", "say"):
            client.send(1, how=how)
        wait_for(lambda: client.ready(OUTPUT) == 7, 60, "seven results")
        results = [result.body for result in client.results()]
        assert client.ready(DEAD) == 0
    assert results[0] == {"code": -signal.SIGTERM}
    assert results[1] == {"left": True}
    assert results[2]["comm"].startswith("python")
    assert results[3] == {"pid": 0}
    assert results[5]["safe"] is None
    said = [event["msg"] for event in running.events() if event["msg"].startswith("said ")]
    assert said == [f"said {results[4]['said']}", f"said {results[6]['said']}"]
    assert running.stop() == 0
    assert (running.folder / "atexit").read_text() == "done"
    assert not [event for event in running.events() if event["event"] == "consumer_ended" and event["level"] != "debug"]


def test_files_beside_the_configuration_do_not_replace_pythons(service):
    """A user's mqworker.py, signal.py and struct.py are theirs: run, check and the watchdog import Python's own."""
    broken = "raise RuntimeError('this is not the module that was meant')\n"
    names = ("mqworker", "signal", "struct", "socket", "json", "selectors", "msgspec", "multiprocessing")
    files = {f"{name}.py": broken for name in names}
    jobs = "def handle(body):\n    return body\n"
    running = service(config(), files | {"jobs.py": jobs})
    running.command = [str(Path(sys.executable).parent / "mqworker")]  # `python -m` puts this folder on the path
    running.start()
    with Client(running) as client:
        client.send(3)
        client.finish()
    checked = running.cli("check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert running.stop() == 0
