"""Who is charged when a Consumer dies that had several messages in hand.

Pure: what is known about the death in, a verdict out; used by dispatch. The first of these that applies:

1. We ended it for a reason that is no message's, or its code is given up: nobody.
2. We killed it at the hard limit: the messages that had exceeded it; nobody if these have just ended.
3. One message was in hand: that one.
4. faulthandler names the thread that crashed, and one message runs in that: that one.
5. The register names a task that had the loop: its message, unless faulthandler names another thread than the loop's.
6. Exactly one is alone in its window, or has killed before: that one.
7. All were waiting in their tasks, and SIGKILL came from outside (a process that waits does not kill itself, and the
   kernel has not killed for want of memory): nobody. The fifth such death of a message counts as one of row 8, because
   what it has started may have sent the signal.
8. Else nobody; but at the second such death a message is *doubted*: it runs alone in a Consumer for its window, and the
   death that comes in it is charged to it.

If we killed it because nothing in it got on, rows 3 to 5 do not apply: whoever has stopped it, perhaps from outside,
need not be among the messages in hand. A message that waits for a shared object, or has an outcome, is not in hand
here. That one death makes nobody doubted keeps a kill from outside from making a queue of neighbours.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

DOUBTED = 2  # deaths of row 8 with a message in hand, after which it is doubted
_ALONE = 6  # the row that names a message because it is alone
PATIENCE = 5  # deaths of row 7 from which on they count as those of row 8


class Doubt(NamedTuple):
    """What speaks against a message that was in hand at deaths that could not be attributed."""

    deaths: int = 0  # of row 8
    killed: int = 0  # of row 7
    longest: float = 0.0  # the longest time, in seconds, that it had run at one of them

    @property
    def doubted(self) -> bool:
        """Whether it has to be alone."""
        return self.deaths >= DOUBTED

    def outlived(self) -> "Doubt":
        """Return what is left when it has run alone for its window."""
        return self._replace(deaths=1)


class Accused(NamedTuple):
    """A message that was in hand."""

    seq: int
    age: float  # seconds
    thread: int = 0  # the thread that it ran in; 0: it had none of its own
    isolated: bool = False  # it is alone in its window, or has killed before
    doubt: Doubt = Doubt()


class DeathFacts(NamedTuple):
    """What is known about a death."""

    in_hand: Sequence[Accused]
    excused: bool = False  # row 1
    overdue: frozenset[int] = frozenset()  # for which we killed it
    still: bool = False  # we killed it because nothing in it got on
    tasks: bool = False  # it worked in tasks, not in threads
    running: int = 0  # the message whose task had the loop; 0: none
    loop: int = 0  # the thread of the loop; 0: there is none
    thread: int = 0  # the thread that crashed, as faulthandler says; 0: it says nothing
    killed: bool = False  # by SIGKILL
    no_memory: bool = False  # the kernel has killed for that meanwhile


class Verdict(NamedTuple):
    """Who is charged, by which row; and what is held against the others from now on, if that has changed."""

    row: int
    charged: tuple[int, ...] = ()
    doubts: Mapping[int, Doubt] = MappingProxyType({})


def judge(facts: DeathFacts) -> Verdict:
    """Return the verdict."""
    if facts.excused or not facts.in_hand:
        return Verdict(1)
    if facts.overdue and not any(each.seq in facts.overdue for each in facts.in_hand):
        return Verdict(2)
    for row, named in enumerate(_named(facts), start=2):
        if named and not (facts.still and row < _ALONE):
            return Verdict(row, named)
    waited = facts.tasks and not facts.running and facts.killed and not facts.no_memory
    return Verdict(7 if waited else 8, (), {each.seq: _doubt(each, waited=waited) for each in facts.in_hand})


def _named(facts: DeathFacts) -> tuple[tuple[int, ...], ...]:
    """Return whom each of the rows 2 to 6 names."""
    seqs = tuple(each.seq for each in facts.in_hand)
    return (
        tuple(seq for seq in seqs if seq in facts.overdue),
        _only(seqs),
        _only(tuple(each.seq for each in facts.in_hand if facts.thread and each.thread == facts.thread)),
        tuple(seq for seq in seqs if seq == facts.running and facts.thread in (0, facts.loop)),
        _only(tuple(each.seq for each in facts.in_hand if each.isolated)),
    )


def _only(seqs: tuple[int, ...]) -> tuple[int, ...]:
    return seqs if len(seqs) == 1 else ()


def _doubt(accused: Accused, *, waited: bool) -> Doubt:
    deaths, killed, longest = accused.doubt
    killed += waited
    deaths += not waited or killed >= PATIENCE
    return Doubt(deaths, killed, max(longest, accused.age))
