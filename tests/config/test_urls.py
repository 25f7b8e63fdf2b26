"""Parsing a broker's URL."""

import pytest

from mqworker.config.urls import AmqpAddress, amqp_address, embedded_path


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///a/b.db", "a/b.db"),
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite:////a%20b", "/a b"),
        ("sqlite:////a b", "/a b"),
    ],
)
def test_the_file_of_an_embedded_broker(url, expected):
    """Three slashes give a relative path, four an absolute one."""
    assert str(embedded_path(url)) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://h", AmqpAddress("h", 5672, "/", "guest", "guest", tls=False)),
        ("amqps://h", AmqpAddress("h", 5671, "/", "guest", "guest", tls=True)),
        ("amqp://u%40x:p%2Fw@[::1]:1234/%2Fv", AmqpAddress("::1", 1234, "/v", "u@x", "p/w", tls=False)),
    ],
)
def test_the_address_of_a_rabbitmq(url, expected):
    """Omitted parts get AMQP's defaults; escapes are decoded."""
    assert amqp_address(url) == expected
    assert embedded_path(url) is None


@pytest.mark.parametrize("take_apart", [amqp_address, embedded_path])
@pytest.mark.parametrize(
    "url",
    ["sqlite://", "sqlite:///", "sqlite://host/x", "sqlite:///a?x=1", "http://u:s3cret@h", "amqp://u:s3cret@h:99999"],
)
def test_a_bad_url_is_refused_without_its_password(take_apart, url):
    """An invalid URL raises, and no part of it is guessed."""
    with pytest.raises(ValueError, match=r"^broker\.url ") as error:
        take_apart(url)
    assert "s3cret" not in str(error.value)
