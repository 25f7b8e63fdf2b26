"""Each effect once: messages that run again and again, in a model of a broker, a Producer and Consumers.

The shared object, its memory, journal, snapshots and recovery are the real ones, on real files; what a kill leaves is a
journal that is cut within what was not handed to the kernel. The rules of the model are those of the broker and of the
Producer: a message comes back until it is acked, and after its ack within the ring; a retry and a dead letter are named
before they are published; an operator replays dead letters; a sender sends a message twice. Controls show that the
model notices when nothing is remembered, and when what was settled is forgotten at once.
"""

import logging
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from mqworker.ipc.frames import write_all
from mqworker.shared_state import snapshot, values
from mqworker.shared_state.execution import ExecutionNote
from mqworker.shared_state.identity import link_key, message_key, proxy_key
from mqworker.shared_state.instance import SharedClass
from mqworker.shared_state.memory import RENEWALS, CallMemory
from mqworker.shared_state.messages import Call, Caller, SettlementNotice
from mqworker.shared_state.recovery import obsolete, recover, remove, take_over

pytestmark = pytest.mark.untraced  # slow under it, and other tests show what is covered

RING = 4  # messages
KEPT = 1000  # seconds
SLACK = KEPT // RENEWALS + 2  # seconds
CALLS = ("link", "one", "two")  # of each message: a link's, and two equal ones of a proxy
CALLER = Caller("s", b"{}")


class Message:
    """One message of the input queue, and what became of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = message_key(name, b"body")
        self.answers: dict[str, bytes] = {}  # what each call was answered
        self.named = -1  # how many had been named when it was acked
        self.copies = 1  # in the queue
        self.finished = False
        self.runs = 0
        self.again = False  # its publishing again was named
        self.kept_until = float("inf")  # at least


class Once(RuleBasedStateMachine):
    """See the module head."""

    ring = RING

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="mqw-once-"))
        self.kind = SharedClass.load("tests.support.shared_classes:Tally", Path.cwd())
        self.now = 1_000_000.0
        self.messages: list[Message] = []
        self.named = 0
        self.made: list[tuple[Message, str, bytes]] = []  # answers that nobody was given yet
        self.start()

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.folder)

    def memory(self) -> CallMemory:
        return CallMemory(most_named=self.ring, most_kept=10_000, keep=KEPT)

    def start(self) -> None:
        log = logging.getLogger("mqworker.test.once")
        recovered = recover(self.folder, self.kind, "digest", log, memory=self.memory())
        assert not recovered.state.diverged
        self.journal = take_over(self.folder, recovered, "digest")
        self.state = recovered.state
        self.state.open(self.journal, ExecutionNote(self.folder / "execution"))

    # --- what happens

    @rule()
    def send(self):
        self.messages.append(Message(str(len(self.messages))))

    @precondition(lambda self: any(map(self.is_there, self.messages)))
    @rule(which=st.integers(0, 99), calls=st.integers(0, len(CALLS)), flushed=st.booleans())
    def run_partly(self, which, calls, flushed):
        """A Consumer takes a message and dies after some calls, or they are answered and it is retried."""
        self.compute(self.pick(which), calls)
        if flushed:
            self.answer()

    @precondition(lambda self: any(map(self.is_there, self.messages)))
    @rule(which=st.integers(0, 99), ack_is_lost=st.booleans(), word_is_lost=st.booleans())
    def finish(self, which, ack_is_lost, word_is_lost):
        """A message is computed, its result placed, its ack sent and named."""
        message = self.pick(which)
        self.compute(message, len(CALLS))
        self.answer()
        if not ack_is_lost:
            message.copies -= 1
        if not word_is_lost:
            self.named += 1
            message.named = self.named
            self.state.take_notice(SettlementNotice("s", message.key, b""), self.now)
            self.state.flush()
        message.finished = True

    @precondition(lambda self: any(map(self.is_there, self.messages)))
    @rule(which=st.integers(0, 99), dead=st.booleans())
    def publish_again(self, which, dead):
        """A message fails: it is named, then published to a delay queue or as a dead letter, then acked."""
        message = self.pick(which)
        self.compute(message, 1)
        self.answer()
        self.state.take_notice(SettlementNotice("s", b"", message.key), self.now)
        self.state.flush()
        message.again, message.kept_until = True, self.now + KEPT - SLACK
        if dead:
            message.copies -= 1

    @precondition(lambda self: any(self.may_return(each) for each in self.messages))
    @rule(which=st.integers(0, 99))
    def come_back(self, which):
        """The broker was killed and its acks are lost, a sender sends again, or an operator replays."""
        back = [each for each in self.messages if self.may_return(each)]
        back[which % len(back)].copies += 1

    @rule()
    def others_are_named(self):
        """Messages that made no call: they count too."""
        self.named += 1
        self.state.take_notice(SettlementNotice("s", message_key(f"other {self.named}", b""), b""), self.now)

    @rule(seconds=st.integers(1, 300))
    def time_passes(self, seconds):
        self.now += seconds
        self.state.tick(self.now)

    @rule(cut=st.floats(0, 1))
    def kill(self, cut):
        """The process is killed, perhaps while it writes: part of what it has gathered is in the file."""
        gathered = b"".join(self.journal._gathered)
        write_all(self.journal._fd, gathered[: int(cut * len(gathered))])
        self.made.clear()
        self.journal.close()
        self.start()

    @rule(published=st.booleans(), removed=st.booleans())
    def make_snapshot(self, published, removed):
        """And a kill may come between its steps."""
        number = self.state.next_segment()
        path = snapshot.new_path(self.folder, number)
        facts = snapshot.SnapshotFacts(self.kind.job, "digest", self.now)
        snapshot.write(path, facts, self.state.memory.save(), self.state.instance.state)
        if published:
            snapshot.publish(self.folder, path, number)
            if removed:
                remove(self.folder, obsolete(self.folder))

    # --- what must hold

    @invariant()
    def every_effect_is_there_once(self):
        """Every entry is exactly 1, and those of finished messages are all there."""
        entries = self.state.instance.state.entries
        for message in self.messages:
            link, proxy = (entries.get(f"{kind}{message.name}", 0) for kind in ("link ", ""))
            assert link == 1 if message.finished else link <= 1, message.name
            assert proxy == 2 if message.finished else proxy <= 2, message.name

    # --- helpers

    def may_return(self, message):
        """Whether it may come back and must have no second effect: within the ring, or while it is kept."""
        within = message.named > 0 and self.named - message.named < RING
        if within and message.runs == 1:
            return True
        return (within or message.again or message.named < 0) and self.now < message.kept_until

    def pick(self, which):
        """Return a message that the broker may deliver, also a second copy of one that is out."""
        there = [each for each in self.messages if self.is_there(each)]
        return there[which % len(there)]

    def is_there(self, message):
        """Whether the broker may deliver it, and must not too late for the promise."""
        return message.copies > 0 and self.may_return(message)

    def compute(self, message, calls):
        """Run a message; what it was answered before, it is answered again."""
        if calls:
            message.runs += 1
            message.kept_until = min(message.kept_until, self.now + KEPT - SLACK)  # a kill may have cost a later start
        for name in CALLS[:calls]:
            answer = self.state.call(CALLER, self.call(message, name), self.now)
            self.now += 0.001
            assert message.answers.get(name, answer) == answer
            self.made.append((message, name, answer))

    def answer(self):
        """Flush the journal, then answer."""
        self.state.flush()
        for message, name, answer in self.made:
            message.answers[name] = answer
        self.made.clear()

    def call(self, message, name):
        if name == "link":
            return Call(1, message.key, True, link_key("tally", 0), "", values.encode({"id": message.name}, "it"))
        body = values.encode([[message.name], {}], "it")
        return Call(1, message.key, True, proxy_key("add", body, CALLS.index(name) - 1), "add", body)


class TestOnce(Once.TestCase):
    """Whatever happens in whatever order, every effect is there once."""

    settings = settings(max_examples=100, stateful_step_count=60, deadline=None)


@pytest.mark.release
class TestOnceAtLength(Once.TestCase):
    """The same with many more sequences."""

    settings = settings(max_examples=1000, stateful_step_count=60, deadline=None)


class NothingIsRemembered(Once):
    def memory(self):
        memory = super().memory()
        memory.find = lambda *_: None
        return memory


class SettledIsForgotten(Once):
    ring = 0


@pytest.mark.parametrize("broken", [NothingIsRemembered, SettledIsForgotten])
def test_the_model_notices_what_would_be_wrong(broken):
    """Without remembering, and without the ring, it finds a second effect."""
    sought = settings(
        max_examples=300, stateful_step_count=30, deadline=None, report_multiple_bugs=False, phases=[Phase.generate]
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(broken, settings=sought)
