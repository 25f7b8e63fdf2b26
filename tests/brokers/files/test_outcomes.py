"""What publications make of a line of a file: tables."""

import json
from hashlib import sha256

import pytest

from mqworker.amqp import headers
from mqworker.amqp.properties import Properties
from mqworker.brokers.base import Placement, Publication, Topology
from mqworker.brokers.files.outcomes import LineOutcomes
from mqworker.brokers.files.reader import LineBatch
from mqworker.brokers.files.window import Extent, Window

TOPOLOGY = Topology("in", Placement("", "results"), "in.dlq")


def result(body):
    return Publication("results", "", b"\0\0", body)


def letter():
    properties = Properties()
    properties.headers.update({headers.REASON: "rejected", headers.ERROR_TYPE: "Reject", headers.MESSAGE: "no"})
    return Publication("", "in.dlq", properties.encode(), b"x")


RETRY = Publication("", "in", Properties(message_id="1").encode(), b"x", delay=4)

# publications -> results, reason of the dead letter ("" for none), whether the last one is another attempt
TABLES = {
    "a result": ([result(b"a")], [b"a"], "", False),
    "several": ([result(b"a"), result(b""), result(b"b")], [b"a", b"", b"b"], "", False),
    "none": ([], [], "", False),
    "a dead letter": ([letter()], [], "rejected", False),
    "another attempt": ([RETRY], [], "", True),
    "a line break in a result makes the line dead, with its other results": (
        [result(b"a"), result(b"b\nc"), result(b"d")],
        [],
        "unencodable",
        False,
    ),
    "a dead letter after results": ([result(b"a"), letter()], [], "rejected", False),
}


@pytest.mark.parametrize(("publications", "results", "reason", "again"), TABLES.values(), ids=TABLES)
def test_what_each_publication_means(publications, results, reason, again):
    """The results, or one dead letter that is reported once; another attempt has the new properties and no tag."""
    window, failures, last = Window(Extent()), [], False
    window.add(LineBatch(1, 0, [b"x"], 2, sha256(), sha256(b"x\n"), 2))
    outcomes = LineOutcomes(window, TOPOLOGY, lambda number, about: failures.append((number, about)))
    line = window.take()
    line.tag = 7
    for publication in publications:
        last = outcomes.take(line, publication)
    assert last == again
    assert (line.tag, line.properties) == ((0, RETRY.properties) if again else (7, b""))
    assert line.results == results
    assert (json.loads(line.dead)["reason"] if line.dead else "") == reason
    assert [number for number, _ in failures] == [1] * bool(reason)
    assert not line.settled


def test_a_line_that_is_too_long_is_settled_as_dead():
    """Its body is not there; the letter says how long it is, and what is allowed."""
    window, failures = Window(Extent()), []
    window.add(LineBatch(1, 0, [b""], 5001, sha256(), sha256(b"x" * 5000 + b"\n"), 5001, 5000))
    outcomes = LineOutcomes(window, TOPOLOGY, lambda number, about: failures.append((number, about)))
    line = window.take()
    outcomes.too_long(line, 1000)
    assert line.settled
    assert failures == [(1, "oversized: TooLarge: the line has 5,000 bytes; max_body allows 1,000")]
    portion = window.portion()
    assert portion is not None
    assert [json.loads(each)["length"] for each in portion.dead] == [5000]
