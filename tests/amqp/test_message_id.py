"""What a message is known by, taken out of a large property block."""

from hypothesis import given
from hypothesis import strategies as st

from mqworker.amqp import headers
from mqworker.amqp import message_id as message_id_module
from mqworker.amqp.message_id import SMALL, brief, has_id
from mqworker.amqp.properties import Headers, Properties, decode_leniently

names = st.text(st.characters(codec="utf-8"), max_size=60).filter(lambda text: len(text.encode()) < 256)
texts = st.none() | names
blocks = st.builds(
    lambda fields, table: Properties(headers=Headers(table | {"x": "y" * SMALL}), **fields).encode(),
    st.fixed_dictionaries(
        dict.fromkeys(("content_type", "content_encoding", "correlation_id", "reply_to", "message_id", "type"), texts)
        | {"expiration": texts, "priority": st.none() | st.integers(0, 255), "timestamp": st.none() | st.integers(0, 9)}
    ),
    st.dictionaries(names, st.integers() | names, max_size=3).map(
        lambda table: {name: value if isinstance(value, str) else value % 2**63 for name, value in table.items()}
    ),
)


@given(blocks)
def test_a_large_block_becomes_a_small_one_with_the_same_id(block):
    """Whatever other properties there are before it and behind it."""
    small = brief(block)
    assert len(small) <= SMALL
    assert decode_leniently(small).message_id == decode_leniently(block).message_id
    assert has_id(small) == has_id(block) == (decode_leniently(block).message_id is not None)


@given(st.none() | st.just("id"), st.integers(1, 9))
def test_what_we_count_stays(message_id, attempt):
    """Attempts count for the stage whose input is named; a derived id is an id."""
    table = {headers.ATTEMPT: attempt, headers.QUEUE: "in", headers.DERIVED_ID: "d" * 32, "x": "y" * SMALL}
    kept = decode_leniently(brief(Properties(message_id=message_id, headers=Headers(table)).encode()))
    assert headers.attempt(kept, "in") == attempt
    assert (kept.message_id, kept.headers[headers.DERIVED_ID]) == (message_id, "d" * 32)


@given(st.binary(max_size=64), st.integers(0, 64))
def test_malformed_blocks_become_something_small(begin, cut):
    """Anybody may send them; none raises."""
    for block in (begin, begin + bytes(SMALL), begin + headers.PREFIX.encode() + b"\xff" * SMALL):
        assert len(brief(block[: len(block) - cut])) <= SMALL + 64


def test_what_a_result_tells_of_its_stage_is_not_decoded(monkeypatch):
    """Each message of a second stage has such headers, and noting one must cost next to nothing."""
    table = {headers.STAGE: "a", headers.GENERATION: 3, headers.DURATION: 7, "x": "y" * SMALL}
    block = Properties(message_id="id", headers=Headers(table)).encode()
    monkeypatch.setattr(message_id_module, "decode_leniently", None)
    small = brief(block)
    assert decode_leniently(small) == Properties(message_id="id")
