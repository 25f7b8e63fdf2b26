"""The user's class: what it may be, and how its methods are called."""

import json
import logging
import sys

import pytest

from mqworker.errors import Reject, Retry, SharedCallError, SharedValueError
from mqworker.jobs.loading import JobLoadError
from mqworker.shared_state import answers, values
from mqworker.shared_state.folder import StateError
from mqworker.shared_state.instance import SharedClass, SharedInstance

SOURCE = """
from dataclasses import dataclass
from mqworker import Reject, Retry

@dataclass
class Params:
    window: int = 300

class Rule:
    def __init__(self):
        self.seen = []
    def handle(self, event, params, now, *, log):
        log.warning("seen %s", event)
        self.seen.append(event)
        event["window"] = params.window
        return [event, now]
    def keep(self, event):
        return event
    def pick(self, a, b=2, *, c=3):
        return [a, b, c]
    def wrong(self):
        return (1, 2)
    def raises(self, what):
        raise {"reject": Reject("no"), "retry": Retry(3), "exit": SystemExit(4), "value": ValueError("bad")}[what]
    def tick(self, now):
        self.seen.clear()
    def describe(self):
        return {"seen": len(self.seen), 1: {2}}
    def _hidden(self):
        return 1
    value = 5
    @staticmethod
    def double(x):
        return 2 * x
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Return what imports a class from source, and is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load_class(source, name="Rule"):
        (tmp_path / "rules.py").write_text(source)
        sys.modules.pop("rules", None)
        return SharedClass.load(f"rules:{name}", tmp_path)

    yield load_class
    sys.modules.pop("rules", None)


@pytest.fixture
def instance(load):
    kind = load(SOURCE)
    made = SharedInstance(kind, kind.new(), logging.getLogger("mqworker.test.rules"))
    made.enable_log()
    return made


def call(instance, method, *args, params=None, now=7.5, **kwargs):
    body = values.encode(args[0] if not method else [[*args], kwargs], "it")
    return answers.result(
        instance.call(method, body, json.dumps(params or {}).encode(), now), args[0] if args else None
    )


def test_a_method_gets_what_it_asks_for_by_name(instance, caplog):
    """`params` of its module's type, from the fields of the calling stage that it has; `now`; `log`."""
    params = {"window": 60, "of another job": 1}
    assert call(instance, "", {"id": 1}, params=params) == [{"id": 1, "window": 60}, 7.5]
    assert "seen {'id': 1}" in caplog.text
    assert call(instance, "pick", 1, c=5) == [1, 2, 5]
    assert call(instance, "double", 4) == 8


def test_a_method_is_called_with_a_copy_of_its_arguments(instance):
    """What it changes in place is in its answer, and never in the bytes that were received."""
    event = {"id": 1}
    assert call(instance, "", event)[0] == {"id": 1, "window": 300}
    assert event == {"id": 1}


def test_a_link_that_returns_its_argument_costs_a_byte(load):
    """The Consumer goes on with its own value; a proxy's answer is always sent."""
    kind = load("class Rule:\n def handle(self, event): return event\n def keep(self, event): return event")
    made = SharedInstance(kind, kind.new(), logging.getLogger())
    assert made.call("", values.encode({"id": 1}, "it"), b"", 1.0) == bytes((answers.SAME,))
    assert call(made, "keep", {"id": 1}) == {"id": 1}


@pytest.mark.parametrize(
    ("what", "raised"),
    [("reject", Reject), ("retry", Retry), ("exit", SharedCallError), ("value", SharedCallError)],
)
def test_whatever_a_method_raises_is_its_answer(instance, what, raised):
    """Nothing ends the process that other messages need."""
    with pytest.raises(raised):
        call(instance, "raises", what)


def test_an_answer_that_would_change_is_the_calls_error(instance):
    """With the place named."""
    with pytest.raises(SharedValueError, match=r"the answer of Rule\.wrong is of type tuple"):
        call(instance, "wrong")


@pytest.mark.parametrize("method", ["tick", "_hidden", "value", "nothing", "__init__", "seen"])
def test_only_public_methods_can_be_called(instance, method):
    """Nothing else; the sentence says what there is."""
    with pytest.raises(SharedCallError, match=r"it has: .*double, handle"):
        call(instance, method)


def test_arguments_or_parameters_that_do_not_fit_are_the_calls_error(instance):
    """A wrong call, and parameters that its type refuses."""
    with pytest.raises(SharedCallError, match="unexpected keyword"):
        call(instance, "pick", 1, d=5)
    with pytest.raises(SharedCallError, match="window"):
        call(instance, "", {"id": 1}, params={"window": "wide"})


def test_an_object_says_something_of_itself(instance):
    """Whatever it returns, as plain values; what it raises is told instead."""
    assert instance.described() == ({"seen": 0, "1": [2]}, "")
    instance.state.seen = None
    assert instance.described()[1].startswith("TypeError")


def test_a_replay_is_silent(load, caplog):
    """What was logged once is not logged again."""
    kind = load(SOURCE)
    made = SharedInstance(kind, kind.new(), logging.getLogger("mqworker.test.rules"))
    call(made, "", {"id": 1})
    assert "seen" not in caplog.text


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("def Rule(x): return x", "must be a class"),
        ("class Rule:\n def setup(self): pass", "has no setup"),
        ("class Rule:\n def teardown(self): pass", "has no teardown"),
        ("class Rule:\n async def handle(self, x): pass", "async"),
        ("class Rule:\n def handle(self, x, message): pass", "takes 'message', which mqworker does not pass"),
        ("class Rule:\n def describe(self, now): pass", r"write def describe\(self\)"),
        ("class Rule:\n def tick(self): pass", r"write def tick\(self, now\)"),
        ("class Rule:\n def handle(self, x): yield 1", "handle yields"),
        ("class Rule:\n def __init__(self, x): pass", "made without arguments"),
        ("class Rule:\n def __init__(self): 1/0", "ZeroDivisionError"),
        ("import threading\nclass Rule:\n def __init__(self): self.lock = threading.Lock()", "cannot be kept"),
        ("class Other: pass", "has no 'Rule'"),
    ],
)
def test_a_class_that_cannot_be_shared_is_refused(load, source, sentence):
    """With a sentence, before anything is served."""
    with pytest.raises(JobLoadError, match=sentence):
        load(source).new()


def test_a_state_that_the_class_does_not_take_is_refused(load):
    """A snapshot of another class, or one that raises."""
    kind = load(SOURCE)
    with pytest.raises(StateError, match="not of rules:Rule"):
        kind.adopt(lambda: [1], changed=False)
    with pytest.raises(StateError, match="ZeroDivisionError"):
        kind.adopt(lambda: 1 / 0, changed=False)
