"""When a Producer is started, sent its state, stopped and killed: tables of events, and invariants for any events."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.ipc.generation import Generation
from mqworker.ipc.producer_messages import Desired
from mqworker.ipc.spawn import Death
from mqworker.ipc.stage_status import LinkState, StageStatus
from mqworker.service.lifecycle import (
    FRUITLESS_MAX,
    SILENT,
    Action,
    KillProducer,
    Lifecycle,
    SendDesired,
    StartProducer,
    StopProducer,
)

DRAIN = 30.0
DESIRED = Desired(0, True, 2, Generation(1, 1, ["a:b"], None, b"{}"), None, 0.0, 0.0, 20)
KILLED, FAILED, ORDERLY = Death(-9, 0), Death(1, 0), Death(0, 0)


def status(revision: int = 0, *, connected: bool = True, **more: Any) -> StageStatus:
    """Return a Producer's report."""
    values: dict[str, Any] = {
        "state": "running",
        "listening": True,
        "problem": "",
        "crash_loop": False,
        "consumers": (),
        "backlog": 0,
        "counters": {},
        "times": {},
        "idle": False,
        "switch": None,
    }
    numbers = ("pid", "generation", "prefetch", "held", "dispatched", "computed", "settling", "held_bytes", "kept")
    numbers += ("p95", "rate", "last_settled", "stall")
    link = LinkState(connected=connected, reason="" if connected else "refused")
    return StageStatus(stage="s", revision=revision, link=link, **(dict.fromkeys(numbers, 0) | values | more))


class Driver:
    """One Lifecycle, and a clock that the events set; every start succeeds while processes are available."""

    def __init__(self) -> None:
        self.life = Lifecycle(DRAIN)
        self.now = 0.0
        self.processes = True

    def want(self, revision: int, *, running: bool = True, **content: Any) -> str:
        desired = msgspec.structs.replace(DESIRED, revision=revision, **content)
        return self.do(self.life.want(desired, self.now, running=running))

    def end(self, after: float) -> str:
        return self.do(self.life.end(self.now + after))

    def beats(self, count: int) -> str:
        told = []
        for _ in range(count):
            self.now += 0.5
            told.append(self.do(self.life.beat(self.now)))
        return " ".join(filter(None, told))

    def sleep(self, seconds: float) -> str:
        self.now += seconds
        return ""

    def report(self, revision: int = 0, **more: Any) -> str:
        self.life.reported(status(revision, **more))
        return ""

    def goodbye(self, given_back: int = 0) -> str:
        self.life.ends(given_back)
        return ""

    def die(self, death: Death = KILLED) -> str:
        return self.do(self.life.died(death, self.now))

    def do(self, actions: list[Action]) -> str:
        """Carry the actions out, as the StageSupervisor does; return them as text."""
        told = []
        for action in actions:
            match action:
                case StartProducer(desired):
                    told.append(f"start {desired.revision}")
                    if self.processes:
                        self.life.started(self.now)
                    else:
                        self.life.not_started("no more processes", self.now)
                case SendDesired(desired):
                    told.append(f"tell {desired.revision}")
                case StopProducer(until, kill_at):
                    told.append(f"stop {until - self.now:g}/{kill_at - self.now:g}")
                case KillProducer(reason):
                    told.append(f"kill: {reason}")
        return " ".join(told)


def shown(life: Lifecycle) -> str:
    """Return the state and the applied revision."""
    return f"{life.state} {life.applied}"


TABLES = {
    "a start, told once it reports": [
        ("want", {"revision": 5}, "start 5", "starting 0"),
        ("report", {"revision": 0}, "", "running 0"),
        ("report", {"revision": 5}, "", "running 5"),
    ],
    "what is new is told, what concerns others is not": [
        ("want", {"revision": 1}, "start 1", "starting 0"),
        ("report", {"revision": 1}, "", "running 1"),
        ("want", {"revision": 2}, "", "running 2"),
        ("want", {"revision": 3, "consumers": 4}, "tell 3", "running 2"),
        ("want", {"revision": 4, "consumers": 4}, "", "running 2"),
        ("report", {"revision": 2}, "", "running 2"),
        ("report", {"revision": 3}, "", "running 4"),
        ("want", {"revision": 4, "consumers": 4, "listening": False}, "tell 4", "running 4"),  # a pause by SIGTSTP
    ],
    "stopped and started again": [
        ("want", {"revision": 1}, "start 1", "starting 0"),
        ("report", {"revision": 1}, "", "running 1"),
        ("want", {"revision": 2, "running": False}, "stop 30/33", "stopping 1"),
        ("want", {"revision": 3, "running": False, "consumers": 3}, "", "stopping 1"),
        ("goodbye", {}, "", "stopping 1"),
        ("die", {"death": ORDERLY}, "", "stopped 3"),
        ("beats", {"count": 9}, "", "stopped 3"),
        ("want", {"revision": 4, "consumers": 3}, "start 3", "starting 0"),
    ],
    "started again while it stops: the old one ends first": [
        ("want", {"revision": 1}, "start 1", "starting 0"),
        ("want", {"revision": 2, "running": False}, "stop 30/33", "stopping 0"),
        ("want", {"revision": 3}, "", "stopping 0"),
        ("goodbye", {}, "", "stopping 0"),
        ("die", {"death": ORDERLY}, "start 1", "starting 0"),
    ],
    "the end of the service": [
        ("want", {"revision": 1}, "start 1", "starting 0"),
        ("end", {"after": 30}, "stop 30/33", "stopping 0"),
        ("end", {"after": 60}, "", "stopping 0"),  # later than before
        ("end", {"after": 0}, "stop 0/3", "stopping 0"),
        ("goodbye", {"given_back": 2}, "", "stopping 0"),
        ("die", {"death": ORDERLY}, "", "stopped 0"),
        ("want", {"revision": 2}, "", "stopped 0"),
    ],
    "silence": [
        ("want", {"revision": 1}, "start 1", "starting 0"),
        ("report", {"revision": 1}, "", "running 1"),
        ("beats", {"count": SILENT}, "", "running 1"),
        ("report", {"revision": 1}, "", "running 1"),
        ("beats", {"count": SILENT}, "", "running 1"),
        ("beats", {"count": 1}, "kill: it reported nothing for 15 s", "running 1"),
        ("beats", {"count": SILENT}, "", "running 1"),
        ("die", {}, "start 1", "starting 0"),
    ],
    "a pause of the whole machine is no silence": [
        ("want", {"revision": 1}, "start 1", "starting 0"),
        ("sleep", {"seconds": 3600}, "", "starting 0"),
        ("beats", {"count": SILENT}, "", "starting 0"),
    ],
    "silence while it stops": [
        ("want", {"revision": 1}, "start 1", "starting 0"),
        ("end", {"after": 30}, "stop 30/33", "stopping 0"),
        ("beats", {"count": SILENT + 1}, "kill: it reported nothing for 15 s", "stopping 0"),
        ("die", {}, "", "stopped 0"),
    ],
    "fruitless lives wait longer, a fruitful one does not": [
        ("want", {"revision": 1}, "start 1", "starting 0"),
        ("die", {}, "start 1", "starting 0"),
        ("die", {}, "", "backoff 0"),
        ("beats", {"count": 1}, "start 1", "starting 0"),
        ("die", {}, "", "backoff 0"),
        ("beats", {"count": 1}, "", "backoff 0"),
        ("beats", {"count": 1}, "start 1", "starting 0"),
        ("report", {"connected": True}, "", "running 0"),
        ("die", {}, "start 1", "starting 0"),
        ("die", {}, "start 1", "starting 0"),
    ],
    "one that ends by its own fault is fruitless though it was connected": [
        ("want", {"revision": 1}, "start 1", "starting 0"),
        ("report", {"connected": True}, "", "running 0"),
        ("die", {"death": FAILED}, "start 1", "starting 0"),
        ("report", {"connected": True}, "", "running 0"),
        ("die", {"death": FAILED}, "", "backoff 0"),
    ],
    "a crash loop of Consumers is shown": [
        ("want", {"revision": 1}, "start 1", "starting 0"),
        ("report", {"crash_loop": True}, "", "crash loop 0"),
        ("report", {"state": "starting"}, "", "starting 0"),
    ],
}


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_each_event_has_its_actions(table):
    """Event by event: which actions follow, and what is shown then."""
    driver = Driver()
    for number, (event, arguments, actions, state) in enumerate(table):
        assert getattr(driver, event)(**arguments) == actions, (number, event)
        assert shown(driver.life) == state, (number, event)


def test_a_stage_is_given_up_after_too_many_fruitless_lives():
    """The eighth in a row is the last; it is not started again, and the Service ends."""
    driver = Driver()
    driver.want(1)
    for _ in range(FRUITLESS_MAX - 1):
        driver.die()
        while driver.life.state == "backoff":
            driver.beats(1)
        assert not driver.life.given_up
    driver.die()
    assert driver.life.given_up
    assert driver.beats(1_000) == ""
    assert driver.life.problem == "the last Producer killed by SIGKILL"


def test_no_process_to_be_had_is_told_and_tried_again():
    """A start that fails counts as a fruitless life with a reason."""
    driver = Driver()
    driver.processes = False
    assert driver.want(1) == "start 1"
    assert (driver.life.state, driver.life.problem) == ("backoff", "no more processes")
    driver.processes = True
    assert driver.beats(1) == "start 1"
    assert driver.life.problem == ""


def test_what_was_in_hand_at_a_kill_counts_as_given_back():
    """A Producer killed while stopping cannot report it; one that ends in order does."""
    driver = Driver()
    driver.want(1)
    driver.report(1, dispatched=3, computed=4, settling=2)
    driver.end(0)
    driver.die()
    assert (driver.life.given_back, driver.life.restarts) == (9, 1)
    driver = Driver()
    driver.want(1)
    driver.report(1, dispatched=3, settling=2)
    driver.end(0)
    driver.goodbye(1)
    driver.die(ORDERLY)
    assert (driver.life.given_back, driver.life.restarts) == (1, 0)


class Model:
    """A Producer that applies its orders when the test wants it to, and reports the newest it has applied."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.contents: dict[int, tuple[int, bool]] = {}  # of each revision: Consumers, running
        self.has_applied: set[int] = set()  # numbers of Consumers, in this life
        self.newest = 0

    def told(self) -> Desired:
        desired = self.driver.life._desired
        assert desired is not None
        return desired

    def apply(self) -> None:
        self.newest = self.told().revision
        self.has_applied.add(self.told().consumers)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("want"), st.integers(1, 3), st.booleans()),
        st.tuples(st.sampled_from(["apply", "report", "goodbye", "die", "beat", "pause"])),
    ),
    max_size=40,
)


@given(EVENTS)
def test_applied_is_never_ahead_of_what_was_applied(events):
    """`applied` names a revision that this Producer has wholly applied, and never decreases while it lives and runs.

    This holds however changes of this and other stages, reports and deaths follow one another.
    """
    driver = Driver()
    model = Model(driver)
    life = driver.life
    revision, count, running, before = 0, 2, True, 0
    for event, *arguments in [("want", 2, True), *events]:
        was_alive, was_stopping = life.alive, life.state == "stopping"
        if event == "want":
            revision, (count, running) = revision + 1, arguments
            model.contents[revision] = (count, running)
            driver.want(revision, running=running, consumers=count)
        elif event == "apply" and life.alive and not was_stopping:
            model.apply()
        elif event == "report" and life.alive:
            driver.report(model.newest)
        elif event == "goodbye" and was_stopping:
            driver.goodbye()
        elif event == "die" and life.alive:
            driver.die()
        elif event == "beat":
            driver.beats(1)
        elif event == "pause":
            driver.want(revision, running=running, consumers=count)
        if event == "die" or not was_alive:
            model.has_applied, model.newest, before = set(), 0, 0
        if life.alive:
            assert life.applied <= revision
            assert life.applied == 0 or model.contents[life.applied][0] in model.has_applied
            assert life.applied >= before
            before = life.applied
        else:
            assert life.applied == (0 if running else revision)
