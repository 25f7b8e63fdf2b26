"""The ledger's rules, each by a table of events."""

from itertools import count

import pytest
from msgspec.structs import replace

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import Delivery, Publication
from mqworker.ipc.consumer_messages import LARGE
from mqworker.producer.acks import GAP_WAIT, Ack
from mqworker.producer.entry import Entry, Isolation, Plan
from mqworker.producer.ledger import Ledger
from mqworker.producer.publications import REPUBLISH_FIRST, REPUBLISH_MAX, Publish
from mqworker.producer.quarantine import May
from mqworker.producer.redelivery_cache import KEEP

LANE, OTHER = 0, 1
DROPPED = Plan("dropped")
RESULT = Plan("result", (Publication("", "out", b"", b"result"),))
REPLY = Publication("", "caller", b"", b"reply", mandatory=False)


def delivery(tag: int, body: bytes = b"", *, epoch: int = 1, redelivered: bool = False) -> Delivery:
    return Delivery(epoch, tag, b"", body or b"message %d" % tag, redelivered, "", "in")


def again(tag: int, first_tag: int, *, epoch: int = 2) -> Delivery:
    """Return the redelivery of the message that first arrived with `first_tag`."""
    return delivery(tag, b"message %d" % first_tag, epoch=epoch, redelivered=True)


def filled(messages: int, *, lane: int | None = LANE, **bounds: int) -> tuple[Ledger, list[int]]:
    """Return a ledger with `count` deliveries, tags from 1, and their numbers; all out on a lane."""
    ledger = Ledger(**bounds)
    for tag in range(1, messages + 1):
        assert ledger.delivered(delivery(tag), 0.0) == []
    return ledger, seqs(ledger.assignments.take(lane, 1, messages)) if lane is not None else []


def seqs(entries: list[Entry]) -> list[int]:
    return [entry.seq for entry in entries]


def publish_ids(actions: list[Publish]) -> list[int]:
    return [action.publish_id for action in actions]


def finish(ledger: Ledger, numbers: list[int], plan: Plan = RESULT, now: float = 0.0) -> list[int]:
    """Finish these; return the publications that await an answer."""
    return [publish_id for seq in numbers for publish_id in publish_ids(ledger.finished(seq, plan, now))]


def test_what_the_broker_may_still_store_is_counted():
    """Unanswered, refused and lost publications count until each is confirmed; those of one message count singly."""
    ledger, out = filled(3)
    publications = ledger.publications
    two = Plan("result", RESULT.publications * 2)
    finish(ledger, out[:2])
    (together,) = ledger.finished(out[2], two, 0.0)
    assert (publications.last_id, publications.unconfirmed) == (4, 4)
    publications.refused(1, "no", 0.0)
    publications.refused(3, "no", 0.0)
    assert publications.unconfirmed == 4
    publications.confirmed([together.publish_ids[1]], 0.0)
    assert publications.unconfirmed == 3
    publications.lost(0.0)
    assert publications.unconfirmed == 3
    publications.confirmed(publish_ids(publications.due(REPUBLISH_MAX)), 0.0)
    assert publications.unconfirmed == 0


# --- acks


def test_a_settled_prefix_is_acked_at_once():
    """However many of the oldest are settled, one ack with `multiple` covers them."""
    ledger, out = filled(5)
    ledger.publications.confirmed(finish(ledger, out[:3]), 0.0)
    assert ledger.acks.due(0.0) == [Ack(1, 3, multiple=True)]
    assert ledger.acks.due(9.0) == []
    assert not ledger.acks.waiting


def test_nothing_is_acked_before_it_is_confirmed():
    """A finished message whose result the broker has not confirmed is never acked."""
    ledger, out = filled(1)
    finish(ledger, out)
    assert ledger.acks.due(9.0) == []
    assert len(ledger) == len(ledger.publications) == 1


def test_a_message_without_a_result_is_acked_at_once():
    """A message with nothing to publish is settled when it is finished."""
    ledger, out = filled(1)
    assert finish(ledger, out, DROPPED) == []
    assert ledger.acks.due(0.0) == [Ack(1, 1, multiple=True)]


def test_beyond_a_gap_acks_wait_for_company_then_go_singly():
    """A settled message behind an unsettled one waits 5 ms for it, and is then acked alone."""
    ledger, out = filled(4)
    finish(ledger, [out[1], out[3]], DROPPED, 1.0)
    assert ledger.acks.waiting
    assert ledger.acks.due(1.0 + GAP_WAIT / 2) == []
    assert ledger.acks.due(1.0 + 2 * GAP_WAIT) == [Ack(1, 2, multiple=False), Ack(1, 4, multiple=False)]
    assert not ledger.acks.waiting


def test_a_closed_gap_is_one_ack():
    """When the gap closes within 5 ms, one ack covers all."""
    ledger, out = filled(3)
    finish(ledger, out[1:], DROPPED, 1.0)
    finish(ledger, out[:1], DROPPED, 1.001)
    assert ledger.acks.due(1.001) == [Ack(1, 3, multiple=True)]
    assert ledger.acks.due(2.0) == []


def test_multiple_never_names_an_acked_tag():
    """RabbitMQ closes the channel for an unknown tag: `multiple` names the last tag that was not acked singly."""
    ledger, out = filled(4)
    finish(ledger, [out[2]], DROPPED, 0.0)
    assert ledger.acks.due(1.0) == [Ack(1, 3, multiple=False)]
    finish(ledger, out[:2], DROPPED, 1.0)
    assert ledger.acks.due(1.0) == [Ack(1, 2, multiple=True)]


def test_a_long_message_keeps_nothing_of_the_others():
    """Behind a message that runs for an hour, those acked singly are removed from memory."""
    ledger, out = filled(1)
    for tag in range(2, 100):
        ledger.delivered(delivery(tag), 0.0)
        finish(ledger, seqs(ledger.assignments.take(OTHER, 1, 1)), DROPPED)
        ledger.assignments.chunk_ended(OTHER, 1)
        assert ledger.acks.due(1.0) == [Ack(1, tag, multiple=False)]
    assert len(ledger.acks._order) == len(ledger) == 1
    assert seqs(ledger.assignments.on(LANE)) == out


# --- lanes


def test_chunks_are_taken_oldest_first():
    """A lane gets the deliveries that have waited longest, at most as many as it requests."""
    ledger, _ = filled(5, lane=None)
    assert [entry.tag for entry in ledger.assignments.take(LANE, 1, 3)] == [1, 2, 3]
    assert [entry.tag for entry in ledger.assignments.take(OTHER, 1, 3)] == [4, 5]
    assert ledger.assignments.take(2, 1, 3) == ledger.assignments.take(2, 1, 0) == []
    assert (len(ledger.backlog), len(ledger.assignments)) == (0, 5)


def test_revoked_ones_go_to_the_next_lane_in_their_order():
    """Revoking takes back everything behind the message in hand, to be dispatched first."""
    ledger, out = filled(4)
    ledger.delivered(delivery(5), 0.0)
    assert ledger.assignments.revoke(LANE, out[1]) == 2
    assert seqs(ledger.assignments.on(LANE)) == out[:2]
    assert [entry.tag for entry in ledger.assignments.take(OTHER, 1, 9)] == [3, 4, 5]
    assert ledger.counters.redispatched == 2


def test_revoking_behind_a_finished_message_takes_nothing():
    """When the message in hand is done, it is unknown what the lane has started since."""
    ledger, out = filled(3)
    finish(ledger, out[:1], DROPPED)
    assert ledger.assignments.revoke(LANE, out[0]) == 0
    assert len(ledger.assignments) == 2


@pytest.mark.parametrize("taken", [True, False])
def test_the_first_outcome_of_a_revoked_message_wins(taken: bool):
    """A lane that had started a revoked message may finish it: later outcomes are counted and dropped."""
    ledger, out = filled(2)
    ledger.assignments.revoke(LANE, out[0])
    if taken:
        ledger.assignments.take(OTHER, 1, 1)
    publish_id = finish(ledger, out[1:])
    assert (len(publish_id), len(ledger.backlog), len(ledger.assignments.on(OTHER))) == (1, 0, 0)
    assert finish(ledger, out[1:]) == []
    assert ledger.counters.late == 1


def test_a_chunk_end_dispatches_what_had_no_outcome():
    """After a chunk has ended, its lane holds nothing."""
    ledger, out = filled(3)
    finish(ledger, out[:1], DROPPED)
    assert ledger.assignments.chunk_ended(LANE, 1) == 2
    assert (len(ledger.backlog), len(ledger.assignments)) == (2, 0)
    assert seqs(ledger.assignments.take(LANE, 1, 9)) == out[1:]


def test_a_dead_lane_charges_one_message():
    """The message in hand is returned for judgement; the rest of the chunk is dispatched again, first."""
    ledger, out = filled(3)
    ledger.delivered(delivery(4), 0.0)
    finish(ledger, out[:1], DROPPED)
    assert seqs(ledger.assignments.lane_died(LANE, [out[1]])) == [out[1]]
    assert (len(ledger.backlog), len(ledger.assignments)) == (2, 0)
    assert [entry.tag for entry in ledger.assignments.take(OTHER, 1, 9)] == [3, 4]
    finish(ledger, out[1:2], Plan("dead"))
    assert ledger.counters.dead == 1


@pytest.mark.parametrize("in_hand", [0, 1])
def test_a_death_between_messages_charges_nobody(in_hand: int):
    """When a lane dies idle, or after its message's outcome arrived, no message is charged."""
    ledger, out = filled(3)
    finish(ledger, out[:1], DROPPED)
    assert ledger.assignments.lane_died(LANE, [out[0]] if in_hand else []) == []
    assert len(ledger.backlog) == 2


def test_what_killed_a_consumer_goes_alone_in_its_chunk():
    """A message that killed a Consumer gets a chunk to itself, whatever else waits and however many were requested."""
    ledger = Ledger()
    for tag, isolation in enumerate([Isolation.NONE, Isolation.CHUNK, Isolation.CHUNK, Isolation.NONE], 1):
        ledger.delivered(delivery(tag), 0.0, isolation)
    chunks = [[entry.tag for entry in ledger.assignments.take(lane, 1, 9)] for lane in range(4)]
    assert chunks == [[2], [3], [1, 4], []]


def test_a_large_message_goes_alone_in_its_chunk_at_its_turn():
    """Small ones do not wait for it in its chunk, and it takes nobody's turn."""
    ledger = Ledger()
    for tag, size in enumerate([9, 9, LARGE + 1, LARGE + 1, 9, LARGE, 9], 1):
        ledger.delivered(delivery(tag, bytes(size)), 0.0)
    chunks = [[entry.tag for entry in ledger.assignments.take(lane, 1, 9)] for lane in range(5)]
    assert chunks == [[1, 2], [3], [4], [5, 6, 7], []]


def suspect(ledger: Ledger, tag: int, window: float) -> None:
    ledger.delivered(delivery(tag), 0.0, Isolation.STAGE)
    entry = ledger.acks.find(1, tag)
    assert entry is not None
    entry.window = window


def test_a_suspect_is_taken_when_it_may_begin_and_nothing_beside_it():
    """Nothing is taken beside an isolated suspect until its outcome has arrived."""
    ledger = Ledger()
    suspect(ledger, 1, 15.0)
    ledger.delivered(delivery(2), 0.0)
    assert ledger.assignments.take(LANE, 1, 9, May.NOBODY) == []
    (isolated,) = ledger.assignments.take(LANE, 1, 9, May.SUSPECT)
    assert (isolated.tag, ledger.assignments.isolated) == (1, isolated)
    assert ledger.assignments.take(OTHER, 1, 9) == ledger.assignments.take(OTHER, 1, 9, May.SUSPECT) == []
    finish(ledger, [isolated.seq], DROPPED)
    assert [entry.tag for entry in ledger.assignments.take(OTHER, 1, 9)] == [2]


def test_others_begin_beside_a_suspect_that_has_outlived_its_window():
    """When the isolation ends, others are taken; the message runs on and is no longer a suspect."""
    ledger = Ledger()
    suspect(ledger, 1, 15.0)
    ledger.delivered(delivery(2), 0.0)
    (isolated,) = ledger.assignments.take(LANE, 1, 9, May.SUSPECT)
    ledger.assignments.end_isolation()
    assert [entry.tag for entry in ledger.assignments.take(OTHER, 1, 9)] == [2]
    assert (isolated.isolation, ledger.assignments.isolated) == (Isolation.CHUNK, None)


def test_the_suspect_with_the_shortest_window_begins_first():
    """A suspect with a long window does not delay those with shorter ones."""
    ledger = Ledger()
    for tag, window in enumerate([60.0, 6.0, 15.0], 1):
        suspect(ledger, tag, window)
    order = []
    while ledger.backlog.shortest_window is not None:
        (isolated,) = ledger.assignments.take(LANE, 1, 9, May.SUSPECT)
        order.append((isolated.tag, isolated.window))
        finish(ledger, [isolated.seq], DROPPED)
        ledger.assignments.chunk_ended(LANE, 1)
    assert order == [(2, 6.0), (3, 15.0), (1, 60.0)]


def test_a_suspect_that_was_not_begun_waits_again():
    """A revoked suspect, or one whose lane died before it started, is isolated again at its turn."""
    ledger = Ledger()
    suspect(ledger, 1, 15.0)
    ledger.assignments.take(LANE, 1, 9, May.SUSPECT)
    assert ledger.assignments.lane_died(LANE, []) == []
    assert (ledger.assignments.isolated, ledger.backlog.shortest_window) == (None, 15.0)
    assert ledger.assignments.take(OTHER, 1, 9) == []


def test_an_entry_is_found_by_its_number_until_its_outcome_and_by_its_tag_until_its_ack():
    """The Producer finds by number the deliveries it may still plan, and by epoch and tag the one just delivered."""
    ledger, (seq,) = filled(1)
    entry = ledger.entry(seq)
    assert entry is not None
    assert ledger.acks.find(1, 1) is entry
    assert ledger.acks.find(2, 1) is ledger.acks.find(1, 2) is None
    finish(ledger, [seq], DROPPED)
    assert ledger.entry(seq) is None
    ledger.acks.due(0.0)
    assert ledger.acks.find(1, 1) is None


# --- publications


def test_a_refused_result_is_published_again_with_backoff():
    """A result that cannot be placed is retried at growing intervals, and its input is acked once it is placed."""
    ledger, out = filled(1)
    (publish_id,) = finish(ledger, out)
    now, waits = 0.0, []
    for _ in range(8):
        ledger.publications.refused(publish_id, "no queue", now)
        due = now + min(REPUBLISH_MAX, REPUBLISH_FIRST * 2 ** len(waits))
        assert ledger.tick(due - 0.01) == []
        waits.append(due - now)
        now = due
        (action,) = ledger.tick(now)
        assert action.publication == replace(RESULT.publications[0], settles=(1, 1))
        publish_id = action.publish_id
        assert ledger.acks.due(now) == []
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
    publications = ledger.publications
    assert (ledger.counters.refused, publications.refusal, publications.unplaced) == (8, "no queue", 1)
    publications.confirmed([publish_id], now)
    assert publications.unplaced == 0
    assert ledger.acks.due(now) == [Ack(1, 1, multiple=True)]


TOO_LARGE = Plan("dead", (Publication("", "dead letters", b"", b"in"),))


def test_a_result_that_is_too_large_gets_another_plan():
    """Its entry and message are returned, and a dead letter settles them: publishing it again would not help."""
    ledger, out = filled(1)
    (publish_id,) = finish(ledger, out)
    entry = ledger.publications.refused(publish_id, "too large", 1.0, room=120_000)
    assert entry is not None
    assert (entry.tag, entry.body, ledger.publications.unplaced) == (1, delivery(1).body, 0)
    (action,) = ledger.publications.place(entry, TOO_LARGE, 1.0)
    assert action.publication.routing_key == "dead letters"
    assert ledger.acks.due(1.0) == []
    ledger.publications.confirmed([action.publish_id], 2.0)
    assert ledger.acks.due(2.0) == [Ack(1, 1, multiple=True)]
    assert (ledger.counters.dead, ledger.counters.result) == (1, 0)


def test_a_dead_letter_that_is_too_large_is_kept_and_counted():
    """Nothing smaller can replace it, so it is retried at growing intervals, and counted as too large meanwhile."""
    ledger, out = filled(1)
    (publish_id,) = finish(ledger, out, TOO_LARGE)
    assert ledger.publications.refused(publish_id, "too large", 0.0, room=120_000) is None
    assert (ledger.publications.too_large, ledger.publications.unplaced) == (1, 1)
    (action,) = ledger.tick(REPUBLISH_FIRST)
    assert ledger.publications.refused(action.publish_id, "no queue", REPUBLISH_FIRST) is None
    assert (ledger.publications.too_large, ledger.publications.unplaced) == (0, 1)
    (action,) = ledger.publications.repeat_now(1.0)
    ledger.publications.confirmed([action.publish_id], 1.0)
    assert (ledger.publications.unplaced, ledger.acks.due(1.0)) == (0, [Ack(1, 1, multiple=True)])


def test_a_void_result_that_is_too_large_is_kept_as_a_dead_letter():
    """The dead letter settles its redelivery; a redelivery that adopts a kept result brings its message along."""
    ledger, out = filled(2)
    first, second = finish(ledger, out)
    ledger.publications.refused(second, "not connected", 0.0)
    ledger.consuming_lost(0.0)  # the first delivery has no answer yet, the second is kept without its message
    entry = ledger.publications.refused(first, "too large", 0.0, room=120_000)
    assert entry is not None
    assert ledger.publications.place(entry, TOO_LARGE, 0.0) == []
    (dead,) = ledger.delivered(again(1, 1), 1.0)
    assert dead.publication.routing_key == "dead letters"
    (result,) = ledger.delivered(again(2, 2), 1.0)
    entry = ledger.publications.refused(result.publish_id, "too large", 1.0, room=120_000)
    assert entry is not None
    assert entry.body == delivery(2).body


def test_a_lost_answer_is_counted_and_the_result_published_again():
    """When the publish connection ends, everything unanswered is published again at once and counted as ambiguous."""
    ledger, out = filled(3)
    first = finish(ledger, out)
    ledger.publications.confirmed(first[:1], 1.0)
    ledger.publications.lost(1.0)
    assert (ledger.counters.ambiguous, len(ledger.publications), ledger.publications.unplaced) == (2, 2, 0)
    second = ledger.tick(1.0)
    assert [action.publication.settles for action in second] == [(1, 2), (1, 3)]
    assert {action.publication.body for action in second} == {b"result"}
    ledger.publications.confirmed(first, 1.0)  # too late: nobody waits for those
    assert len(ledger.publications) == 2
    ledger.publications.confirmed(publish_ids(second), 1.0)
    assert ledger.acks.due(1.0) == [Ack(1, 3, multiple=True)]


SEVERAL = Plan("result", tuple(Publication("", "out", b"", body) for body in (b"A", b"B", b"C")))


def test_several_results_settle_when_all_are_confirmed():
    """They go out together, only the refused ones go out again, and the input is acked after the last confirm."""
    ledger, out = filled(1)
    (together,) = ledger.finished(out[0], SEVERAL, 0.0)
    assert [publication.body for publication in together.publications] == [b"A", b"B", b"C"]
    assert {publication.settles for publication in together.publications} == {(1, 1)}
    first, second, third = together.publish_ids
    ledger.publications.refused(second, "no route", 0.0)
    assert ledger.publications.unplaced == 1
    assert len(ledger.publications) == 1
    assert ledger.tick(100.0) == []  # the others still wait for their answers
    assert ledger.confirmed([third, first], 100.0) == []
    (again,) = ledger.tick(101.0)
    assert again.publication.body == b"B"
    assert ledger.confirmed([again.publish_id], 101.0) == [Ack(1, 1, multiple=True)]
    assert (ledger.counters.confirmed, ledger.counters.refused, ledger.counters.result) == (3, 1, 1)
    assert (len(ledger.publications), ledger.publications.unplaced, ledger.held_bytes.total) == (0, 0, 0)


def test_of_several_results_those_without_an_answer_are_published_again():
    """A lost connection repeats what it left open, not what was confirmed before."""
    ledger, out = filled(1)
    (together,) = ledger.finished(out[0], SEVERAL, 0.0)
    ledger.confirmed(together.publish_ids[:1], 0.0)
    ledger.publications.lost(0.0)
    assert ledger.counters.ambiguous == 2
    (again,) = ledger.tick(0.0)
    assert [publication.body for publication in again.publications] == [b"B", b"C"]
    ledger.confirmed(together.publish_ids[1:], 0.0)  # of the old connection
    assert ledger.confirmed(again.publish_ids, 0.0) == [Ack(1, 1, multiple=True)]


def test_a_redelivery_gets_those_of_several_results_that_are_missing():
    """What was confirmed before the connection of the input was lost is not published for its redelivery."""
    ledger, out = filled(1)
    (together,) = ledger.finished(out[0], SEVERAL, 0.0)
    ledger.confirmed(together.publish_ids[:2], 0.0)
    ledger.consuming_lost(0.0)
    ledger.publications.refused(together.publish_ids[2], "no route", 0.0)
    (missing,) = ledger.delivered(again(1, 1), 1.0)
    assert (missing.publication.body, missing.publication.settles) == (b"C", (2, 1))
    assert ledger.confirmed([missing.publish_id], 1.0) == [Ack(2, 1, multiple=True)]


def test_one_of_several_results_that_is_too_large_makes_the_input_dead():
    """The other results may be stored already; their answers change nothing any more."""
    ledger, out = filled(1)
    (together,) = ledger.finished(out[0], SEVERAL, 0.0)
    first, second, third = together.publish_ids
    ledger.confirmed([first], 0.0)
    entry = ledger.publications.refused(third, "too large", 0.0, room=100)
    (dead,) = ledger.publications.place(entry, TOO_LARGE, 0.0)
    assert dead.publication.body == b"in"
    assert ledger.confirmed([second], 0.0) == []
    assert ledger.confirmed([dead.publish_id], 0.0) == [Ack(1, 1, multiple=True)]
    assert (ledger.counters.dead, ledger.counters.result, len(ledger.publications)) == (1, 0, 0)


def test_a_reply_is_sent_once_and_gates_nothing():
    """A reply goes out beside the result; refused, lost or unanswered, it is not repeated and delays nothing."""
    ledger, out = filled(1)
    reply, result = ledger.finished(out[0], Plan("result", RESULT.publications, (REPLY,)), 0.0)
    assert (reply.publication, result.publication.body) == (REPLY, b"result")
    ledger.publications.refused(reply.publish_id, "nobody there", 0.0)
    assert ledger.counters.refused == 0
    ledger.publications.refused(result.publish_id, "no queue", 0.0)
    (result,) = ledger.tick(9.0)
    ledger.publications.lost(9.0)
    (result,) = ledger.tick(9.0)
    assert ledger.counters.ambiguous == 1
    ledger.publications.confirmed([result.publish_id], 9.0)
    assert ledger.acks.due(9.0) == [Ack(1, 1, multiple=True)]


def test_a_reply_alone_settles():
    """Without an output the message is settled once its reply was sent."""
    ledger, out = filled(1)
    assert [action.publication for action in ledger.finished(out[0], Plan("result", (), (REPLY,)), 0.0)] == [REPLY]
    assert ledger.acks.due(0.0) == [Ack(1, 1, multiple=True)]


# --- lost connections


def test_what_was_held_is_forgotten_with_its_connection():
    """A redelivery of a message that nobody had started is a new delivery."""
    ledger, _ = filled(2, lane=None)
    ledger.consuming_lost(0.0)
    assert (len(ledger), len(ledger.backlog), ledger.held_bytes.total, ledger.counters.voided) == (0, 0, 0, 2)
    ledger.delivered(again(1, 1), 0.0)
    assert (len(ledger.backlog), ledger.counters.adopted) == (1, 0)


def test_tags_of_a_lost_connection_are_never_acked():
    """A delivery settled but not yet acked under the old epoch acks nothing in the new one, whose tags start again."""
    ledger, out = filled(3)
    finish(ledger, out[1:], DROPPED, 0.0)
    ledger.consuming_lost(0.0)
    for tag in (1, 2, 3):
        ledger.delivered(delivery(tag, b"new", epoch=2), 0.0)
    assert (ledger.acks.due(9.0), ledger.acks.waiting, len(ledger)) == ([], False, 3)


def test_a_redelivery_adopts_what_is_being_computed():
    """In state OUT, the redelivery is not dispatched again, and the outcome settles it under its own tag."""
    ledger, out = filled(2)
    ledger.consuming_lost(0.0)
    assert ledger.delivered(again(7, 2), 0.0) == []
    assert (len(ledger), len(ledger.backlog), len(ledger.assignments)) == (1, 0, 2)
    finish(ledger, out[1:], DROPPED)
    assert ledger.acks.due(0.0) == [Ack(2, 7, multiple=True)]


def test_a_redelivery_adopts_what_is_being_placed():
    """In state PLACING, the answer to the pending publication settles the redelivery."""
    ledger, out = filled(1)
    publish_id = finish(ledger, out)
    ledger.consuming_lost(0.0)
    assert ledger.delivered(again(1, 1), 0.0) == []
    ledger.publications.confirmed(publish_id, 0.0)
    assert ledger.acks.due(0.0) == [Ack(2, 1, multiple=True)]


@pytest.mark.parametrize("told", ["before the loss", "after the loss"])
def test_a_redelivery_adopts_what_was_placed(told: str):
    """In state PLACED, the redelivery is acked and nothing published, whether the confirm came before or after."""
    ledger, out = filled(1)
    publish_id = finish(ledger, out)
    if told == "before the loss":
        ledger.publications.confirmed(publish_id, 0.0)
    ledger.consuming_lost(0.0)
    if told == "after the loss":
        ledger.publications.confirmed(publish_id, 0.0)
    assert (ledger.acks.due(9.0), ledger.cache.kept) == ([], 1)
    assert ledger.delivered(again(1, 1), 9.0) == []
    assert ledger.acks.due(9.0) == [Ack(2, 1, multiple=True)]
    assert ledger.cache.kept == 0


@pytest.mark.parametrize("how", ["finished", "refused", "waiting", "answer lost"])
def test_a_redelivery_adopts_what_was_kept(how: str):
    """In state KEPT, an outcome without a valid delivery is published when its redelivery claims it, and not before."""
    ledger, out = filled(1)
    plan = RESULT
    if how == "finished":
        ledger.consuming_lost(0.0)
        assert ledger.finished(out[0], plan, 0.0) == []
    else:
        (publish_id,) = finish(ledger, out, plan)
        if how == "waiting":
            ledger.publications.refused(publish_id, "no queue", 0.0)
        ledger.consuming_lost(0.0)
        if how == "refused":
            ledger.publications.refused(publish_id, "no queue", 0.0)
        if how == "answer lost":
            ledger.publications.lost(0.0)
    assert (ledger.cache.kept, ledger.tick(99.0), ledger.held_bytes.total) == (1, [], 0)
    (action,) = ledger.delivered(again(5, 1), 99.0)
    assert action.publication.settles == (2, 5)
    ledger.publications.confirmed([action.publish_id], 99.0)
    assert ledger.acks.due(99.0) == [Ack(2, 5, multiple=True)]


def test_each_voided_one_is_adopted_once():
    """Of two equal messages only one was void: the second redelivery is computed."""
    ledger, out = filled(1)
    finish(ledger, out, DROPPED)
    ledger.consuming_lost(0.0)
    ledger.delivered(again(1, 1), 0.0)
    ledger.delivered(again(2, 1), 0.0)
    assert (ledger.counters.adopted, len(ledger.backlog)) == (1, 1)


def test_only_a_redelivery_adopts():
    """A new message with equal content is a different message."""
    ledger, _ = filled(1)
    ledger.consuming_lost(0.0)
    ledger.delivered(delivery(1, epoch=2), 0.0)
    assert (ledger.counters.adopted, len(ledger.backlog)) == (0, 1)


@pytest.mark.parametrize("other", [("", "key 2"), ("other exchange", "key 1")])
def test_equal_content_under_another_exchange_or_key_is_another_message(other: tuple[str, str]):
    """Handlers may look at both: of two twins, a redelivery adopts the outcome of its own, or none."""
    ledger = Ledger(kept_max=1)
    twins = [("", "key 1"), other]
    for tag, place in enumerate(twins, 1):
        ledger.delivered(Delivery(1, tag, b"", b"twin", False, *place), 0.0)
    out = seqs(ledger.assignments.take(LANE, 1, 2))
    ledger.consuming_lost(0.0)
    finish(ledger, out)  # keeping the second outcome evicts the first
    for tag, place in enumerate(twins, 1):
        actions = ledger.delivered(Delivery(2, tag, b"", b"twin", True, *place), 0.0)
        assert [action.publication.settles for action in actions] == [(2, 2)] * (tag == 2)
    assert (len(ledger.backlog), ledger.counters.adopted) == (1, 1)


def test_a_redelivery_is_known_by_its_content_without_the_delivery_count():
    """A quorum queue counts deliveries in a header; that does not make it a different message."""
    ledger = Ledger()
    blocks = []
    for times in range(2):
        properties = Properties(message_id="7")
        properties.headers["x-delivery-count"] = times
        blocks.append(properties.encode())
    ledger.delivered(Delivery(1, 1, blocks[0], b"body", False, "", "in"), 0.0)
    ledger.assignments.take(LANE, 1, 1)
    ledger.consuming_lost(0.0)
    ledger.delivered(Delivery(2, 1, blocks[1], b"body", True, "", "in"), 0.0)
    assert ledger.counters.adopted == 1


def test_a_void_message_is_not_dispatched_again():
    """A void delivery that a dead, revoked or ended lane gives back is forgotten: its redelivery starts over."""
    ledger, out = filled(4)
    ledger.consuming_lost(0.0)
    assert ledger.assignments.revoke(LANE, out[2]) == 0
    assert ledger.assignments.lane_died(LANE, [out[0]]) == []
    assert (len(ledger.backlog), len(ledger.assignments), ledger.held_bytes.total, ledger.counters.redispatched) == (
        0,
        0,
        0,
        0,
    )
    ledger.delivered(again(1, 1), 0.0)
    assert (ledger.counters.adopted, len(ledger.backlog)) == (0, 1)


def kept_ones(number: int, **bounds: int) -> Ledger:
    ledger, out = filled(number, **bounds)
    ledger.consuming_lost(0.0)
    for now, seq in zip(count(), out, strict=False):
        ledger.finished(seq, RESULT, float(now))
    return ledger


@pytest.mark.parametrize("bounds", [{"kept_max": 2}, {"kept_bytes": 2 * len(b"result")}])
def test_the_oldest_kept_outcome_gives_way(bounds: dict[str, int]):
    """Kept outcomes are bounded in number and bytes; a message whose outcome was evicted is computed again."""
    ledger = kept_ones(3, **bounds)
    assert ledger.cache.kept == 2
    assert ledger.delivered(again(1, 1), 0.0) == []
    assert len(ledger.delivered(again(2, 2), 0.0)) == len(ledger.delivered(again(3, 3), 0.0)) == 1
    assert (len(ledger.backlog), ledger.counters.adopted) == (1, 2)


def test_a_kept_outcome_is_given_up_after_an_hour():
    """An outcome that no redelivery claims is never published, and is evicted."""
    ledger = kept_ones(2)
    ledger.tick(KEEP + 0.5)
    assert ledger.cache.kept == 1
    ledger.tick(KEEP + 1.5)
    assert (ledger.cache.kept, len(ledger.publications)) == (0, 0)


# --- giving back, and the numbers


def test_what_is_held_can_be_given_back():
    """Released deliveries are neither acked nor counted as in flight, and a late outcome of one is dropped."""
    ledger, out = filled(3)
    ledger.delivered(delivery(4), 0.0)
    ledger.delivered(delivery(5), 0.0, Isolation.CHUNK)
    ledger.assignments.revoke(LANE, out[1])
    assert {epoch: sorted(tags) for epoch, tags in ledger.release_held().items()} == {1: [3, 4, 5]}
    assert ledger.release_held() == {}
    assert (len(ledger), len(ledger.backlog), ledger.counters.released) == (2, 0, 3)
    finish(ledger, out, DROPPED)
    assert ledger.counters.late == 1
    assert ledger.acks.due(9.0) == [Ack(1, 2, multiple=True)]
    assert ledger.held_bytes.total == 0


def test_held_bytes_count_inputs_and_results_until_they_are_settled():
    """The weight of a message is its body and properties and, from its outcome on, what will be published."""
    ledger = Ledger()
    ledger.delivered(Delivery(1, 1, b"1234", b"123456", False, "", "in"), 0.0)
    assert ledger.held_bytes.total == 10
    publish_id = finish(ledger, seqs(ledger.assignments.take(LANE, 1, 1)))
    assert ledger.held_bytes.total == 10 + len(b"result")
    ledger.publications.confirmed(publish_id, 0.0)
    assert ledger.held_bytes.total == 0


def test_what_was_refused_goes_again_at_once_when_a_connection_is_back():
    """The backoff of a refused publication ends with its cause."""
    ledger = Ledger()
    ledger.delivered(Delivery(1, 1, b"", b"a", False, "", "in"), 0.0)
    (entry,) = ledger.assignments.take(1, 1, 1)
    (first,) = ledger.finished(entry.seq, Plan("result", (Publication("", "out", b"", b"A"),)), 0.0)
    ledger.publications.refused(first.publish_id, "not connected", 0.0)
    assert ledger.tick(0.1) == []
    (again,) = ledger.publications.repeat_now(0.2)
    assert again.publication == first.publication
    assert ledger.publications.repeat_now(0.3) == []


# --- Consumers that work on several messages at once


def test_a_dead_consumer_charges_whom_the_verdict_names_and_the_others_go_first():
    """One, several or nobody; and what was charged or is done comes from no other lane again."""
    ledger, out = filled(5)
    finish(ledger, out[:1], DROPPED)
    assert seqs(ledger.assignments.lane_died(LANE, {out[1], out[3], out[0], 999})) == [out[1], out[3]]
    assert seqs(ledger.assignments.take_beside(OTHER, 1, 9)) == [out[2], out[4]]
    finish(ledger, [out[1], out[3]], Plan("dead"))
    assert (ledger.counters.dead, ledger.counters.redispatched, len(ledger.assignments)) == (2, 2, 2)


def test_what_a_consumer_gives_back_goes_first():
    """It has taken these and not begun them; what it has finished, or another lane has, stays where it is."""
    ledger, out = filled(4)
    ledger.delivered(delivery(5), 0.0)
    finish(ledger, out[:1], DROPPED)
    assert ledger.assignments.give_back(LANE, (out[0], out[2], out[3], 999)) == 2
    assert [entry.tag for entry in ledger.assignments.take_beside(OTHER, 1, 9)] == [3, 4, 5]
    assert ledger.assignments.give_back(LANE, (out[2],)) == 0


def test_who_must_be_alone_is_chosen_by_name_and_nothing_begins_beside_a_suspect_of_the_stage():
    """A known killer is no part of a chunk, and waits like all others while the stage is in quarantine."""
    ledger = Ledger()
    ledger.delivered(delivery(1), 0.0, Isolation.CHUNK)
    ledger.delivered(delivery(2), 0.0)
    ledger.delivered(delivery(3), 0.0, Isolation.CHUNK)
    first, second = ledger.backlog.alone
    assert (first.tag, second.tag, ledger.backlog.beside) == (1, 3, 1)
    assert ledger.assignments.take_alone(LANE, 1, second) == [second]
    suspect(ledger, 4, 15.0)
    ledger.assignments.take(OTHER, 1, 1, May.SUSPECT)
    assert ledger.assignments.take_beside(LANE, 2, 9) == ledger.assignments.take_alone(LANE, 2, first) == []
    ledger.assignments.end_isolation()
    assert [entry.tag for entry in ledger.assignments.take_beside(LANE, 2, 9)] == [2]
    assert ledger.assignments.take_alone(LANE, 3, first) == [first]
