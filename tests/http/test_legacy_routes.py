"""The four calls of the article: same texts, same codes."""

import itertools
import random
import threading

from mqworker.control.desired_state import SetListening, SetWorking

FOUR = ("startlistening", "stoplistening", "startworking", "stopworking")


def expected(call: str, listening: bool, working: bool) -> tuple[int, str, bool, bool]:
    """The article's sequential specification."""
    if call == "startlistening":
        return 200, "already listening" if listening else "listening", True, working
    if call == "stoplistening":
        return (200, "stopped", False, working) if listening else (400, "not running", False, working)
    if call == "startworking":
        return (202, "already working", listening, True) if working else (200, "started working", listening, True)
    return 200, "stopped working", listening, False


def test_every_order(service):
    """In every order of five calls, GET or POST, each answer is the article's, and the state is the requested one."""
    listening = working = True
    methods = itertools.cycle(("GET", "POST"))
    connection = service.connect()
    for calls in itertools.product(FOUR, repeat=4):
        for call in calls:
            status, words, listening, working = expected(call, listening, working)
            connection.request(next(methods), f"/{call}")
            response = connection.getresponse()
            assert (response.status, response.read()) == (status, f'{{"status":"{words}"}}\n'.encode())
        for stage in service.document.stages.values():
            assert (stage.listening, stage.working, stage.consumers > 0) == (listening, working, True)
    connection.close()


def test_one_stage(service):
    """`?stage=` applies to that stage only; without it, every stage counts."""
    assert service.ask("GET", "/stoplistening?stage=beta").json == {"status": "stopped"}
    assert service.ask("GET", "/stoplistening?stage=beta").json == {"status": "not running"}
    assert service.changes == [SetListening("beta", enabled=False)]
    assert service.ask("GET", "/startlistening?stage=alpha").json == {"status": "already listening"}
    assert service.ask("GET", "/startlistening").json == {"status": "listening"}
    missing = service.ask("GET", "/stopworking?stage=zeta")
    assert (missing.status, missing.json["stages"]) == (404, ["alpha", "beta"])


def test_head_changes_nothing(service):
    """HEAD and OPTIONS of the four have no effect."""
    for call in FOUR:
        assert service.ask("HEAD", f"/{call}").status == 405
        assert service.ask("OPTIONS", f"/{call}").status == 200
    assert service.changes == []


def test_concurrent_calls_have_true_answers(service):
    """Of simultaneous calls, each real change is reported to exactly one caller."""
    told = []

    def caller(seed: int) -> None:
        calls = random.Random(seed)
        for _ in range(15):
            call = calls.choice(("startworking", "stopworking?stage=alpha", "startworking?stage=alpha"))
            told.append(service.ask("POST", f"/{call}").json["status"])

    threads = [threading.Thread(target=caller, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    started = sum(change == SetWorking("alpha", enabled=True) for change in service.changes)
    assert len(told) == 8 * 15
    assert told.count("started working") == started
