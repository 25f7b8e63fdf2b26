"""What a message is and what a call is."""

from hypothesis import given
from hypothesis import strategies as st

from mqworker.amqp import headers
from mqworker.amqp.properties import Headers, Properties
from mqworker.config.model import InputConfig, StageConfig
from mqworker.shared_state.identity import SIZE, identify, link_key, message_key, proxy_key

TEXT = st.text(st.characters(exclude_categories=()), max_size=8)


@given(TEXT, st.binary(max_size=8), TEXT, st.binary(max_size=8))
def test_a_message_is_its_id_and_its_body(one, body, other, other_body):
    """Two keys are equal if and only if both are, also where one text ends as the other begins."""
    assert (message_key(one, body) == message_key(other, other_body)) == ((one, body) == (other, other_body))
    assert len(message_key(one, body)) == SIZE


def test_calls_of_one_message_differ_by_what_they_are():
    """A link by its name and part; a proxy's call by method, arguments and how many equal ones came before."""
    keys = [
        link_key("rule", 0),
        link_key("rule", 1),
        link_key("rule2", 0),
        link_key("proxy 0 3 add", 0),
        proxy_key("add", b"x", 0),
        proxy_key("add", b"x", 1),
        proxy_key("add", b"y", 0),
        proxy_key("ad", b"dx", 0),
        proxy_key("add 1", b"x", 0),
    ]
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {SIZE}


STAGE = StageConfig(input=InputConfig(queue="in"), jobs=("a:b",))
BY_BODY = StageConfig(input=InputConfig(queue="in"), jobs=("a:b",), identity="body")


def named(config, body=b"b", **properties):
    found = Properties(**properties)
    return identify(config, found, found.encode(), body)


def test_who_says_which_message_it_is():
    """The id and the body; without an id the content, which a retry remembers; or the body alone."""
    assert named(STAGE, message_id="a") == named(STAGE, message_id="a", priority=3) == (message_key("a", b"b"), True)
    key, stays = named(STAGE, priority=3)
    assert not stays
    assert key != named(STAGE, priority=4)[0]
    kept = Headers({headers.DERIVED_ID: "d" * 32, headers.QUEUE: "in"})
    assert named(STAGE, headers=kept) == named(STAGE, headers=kept, priority=3) == (message_key("d" * 32, b"b"), False)
    assert named(BY_BODY) == named(BY_BODY, message_id="a") == named(BY_BODY, headers=kept)
    assert named(BY_BODY)[1]
    assert named(BY_BODY, b"c")[0] != named(BY_BODY)[0]
