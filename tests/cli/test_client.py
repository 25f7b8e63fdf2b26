"""The client of the control API, against a real HTTP server on a unix socket."""

import json
import time

import pytest

from mqworker.address import Address, CallError, parse_url
from mqworker.client import Client
from mqworker.exits import Exit
from tests.support.tiny_http import response, tiny_server
from tests.support.waiting import AMPLE


def ask(path, answer, timeout=AMPLE):
    """Return the error that GET /status raises against a server with this answer."""
    with tiny_server(path / "s", answer), Client(Address(socket=str(path / "s")), timeout) as client:
        with pytest.raises(CallError) as caught:
            client.get("/status")
        return caught.value


def test_one_connection_is_kept_for_many_requests(tmp_path):
    """Many requests share one connection."""
    with tiny_server(tmp_path / "s", lambda _: response("200 OK", b'{"a": 1}')) as server:
        with Client(Address(socket=str(server.path)), AMPLE) as client:
            assert [client.get("/status") for _ in range(3)] == [{"a": 1}] * 3
        assert server.connections == 1
        assert server.requests[0].startswith(b"GET /api/v1/status HTTP/1.1")


def test_a_connection_that_was_closed_meanwhile_is_opened_again(tmp_path):
    """When a server hangs up after each answer, the next request opens a new connection."""
    with tiny_server(tmp_path / "s", lambda _: response("200 OK", close=True)) as server:
        with Client(Address(socket=str(server.path)), AMPLE) as client:
            client.get("/a")
            client.get("/b")
        assert server.connections == 2


def test_a_kept_connection_that_dies_under_a_get_is_tried_once_more(tmp_path):
    """A GET survives the loss of a kept connection; a POST is never sent twice."""
    answers = iter([response("200 OK"), b"", response("200 OK"), b"", response("200 OK")])
    with tiny_server(tmp_path / "s", lambda _: next(answers)) as server:
        with Client(Address(socket=str(server.path)), AMPLE) as client:
            client.get("/a")
            client.get("/b")
            with pytest.raises(CallError) as caught:
                client.call("POST", "/c")
        assert caught.value.code == Exit.NO_ANSWER
        assert len(server.requests) == 4


def test_a_post_that_was_not_sent_goes_over_a_new_connection(tmp_path):
    """A POST on a connection that the server has closed reached nobody, so it is sent once more."""
    with tiny_server(tmp_path / "s", lambda _: response("200 OK")) as server:
        with Client(Address(socket=str(server.path)), AMPLE) as client:
            client.get("/a")
            server.hang_up()
            client.call("POST", "/b", {"x": 1})
        assert [head.split()[:2] for head in server.requests] == [[b"GET", b"/api/v1/a"], [b"POST", b"/api/v1/b"]]


def test_nobody_there_is_not_running(tmp_path):
    """No socket, and a socket on which nobody listens, give exit code 3 and how to start the service."""
    with tiny_server(tmp_path / "left", lambda _: None):
        pass
    for name in ("none", "left"):
        with Client(Address(socket=str(tmp_path / name)), AMPLE) as client, pytest.raises(CallError) as caught:
            client.get("/status")
        assert caught.value.code == Exit.NOT_RUNNING
        assert "mqworker run" in str(caught.value)


def test_silence_is_no_answer(tmp_path):
    """A service that accepts and stays silent gives exit code 4, within the allowed time."""
    began = time.monotonic()
    error = ask(tmp_path, lambda _: None, timeout=0.3)
    assert error.code == Exit.NO_ANSWER
    assert "0.3 s" in str(error)
    assert time.monotonic() - began < 20


PROBLEM = "application/problem+json"


@pytest.mark.parametrize(
    ("status", "document", "code", "words"),
    [
        ("401 Unauthorized", {"detail": "a token is needed"}, Exit.REFUSED, "a token is needed"),
        ("403 Forbidden", {"title": "Forbidden"}, Exit.REFUSED, "Forbidden"),
        ("404 Not Found", {"detail": "there is no stage 'x'"}, Exit.USAGE, "there is no stage 'x'"),
        (
            "422 Unprocessable Entity",
            {"detail": "the parameters were refused", "fields": [{"field": "inertia", "problem": "must be below 1"}]},
            Exit.USAGE,
            "the parameters were refused: inertia: must be below 1",
        ),
        (
            "503 Service Unavailable",
            {"detail": "RabbitMQ is away", "kind": "unavailable"},
            Exit.BROKER_UNREACHABLE,
            "away",
        ),
        ("503 Service Unavailable", {"detail": "draining", "kind": "draining"}, Exit.NO_ANSWER, "draining"),
        ("504 Gateway Timeout", {"detail": "no result"}, Exit.NO_ANSWER, "no result"),
        ("500 Internal Server Error", {}, Exit.INTERNAL, "HTTP 500"),
    ],
)
def test_a_problem_document_becomes_a_sentence_and_an_exit_code(tmp_path, status, document, code, words):
    """Each kind of refusal has its exit code, and the service's text is kept."""
    error = ask(tmp_path, lambda _: response(status, json.dumps(document).encode(), PROBLEM))
    assert error.code == code
    assert words in str(error)


@pytest.mark.parametrize("body", [b"<html>not ours</html>", b"", b"[1]"])
def test_a_refusal_that_is_no_problem_document_is_told_too(tmp_path, body):
    """A proxy's error page is reported as well."""
    error = ask(tmp_path, lambda _: response("502 Bad Gateway", body, "text/html"))
    assert error.code == Exit.NO_ANSWER
    assert "502" in str(error)


@pytest.mark.parametrize("answer", [b"nonsense\r\n\r\n", response("200 OK", b"not json")])
def test_an_answer_of_something_else_is_no_answer(tmp_path, answer):
    """A server that does not speak HTTP, or not JSON, is reported as such."""
    assert ask(tmp_path, lambda _: answer).code == Exit.NO_ANSWER


def test_the_token_is_shown_and_never_told(tmp_path):
    """The token goes into the header and into no error message."""
    with tiny_server(tmp_path / "s", lambda _: response("401 Unauthorized")) as server:
        with (
            Client(Address(socket=str(server.path), token="canary"), AMPLE) as client,
            pytest.raises(CallError) as caught,
        ):
            client.get("/status")
        assert b"Authorization: Bearer canary" in server.requests[0]
    assert "canary" not in str(caught.value)
    assert "canary" not in str(client.address)


def test_events_are_read_as_they_come(tmp_path):
    """Server-sent events: comments are skipped, several data lines make one event, the stream's end ends it."""
    stream = b": hi\n\nid: 1\nevent: log\ndata: {}\n\ndata: a\ndata: b\n\n"
    here = tmp_path / "s"
    with (
        tiny_server(here, lambda _: response("200 OK", stream, "text/event-stream")),
        Client(Address(socket=str(here)), AMPLE) as client,
    ):
        assert list(client.events("/logs")) == [("log", "{}"), ("", "a\nb")]


def test_the_lines_of_a_long_answer(tmp_path):
    """An answer is read line by line; one that is cut off anywhere, or a refusal, ends with a sentence."""
    here, head = tmp_path / "s", b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = head + b'9\r\n{"a": 1}\n\r\n9\r\n{"b": 2}\n\r\n'
    whole = response("200 OK", b'{"a": 1}\n{"b": 2}\n', "application/jsonl", close=True)
    answers = [chunks + b"0\r\n\r\n", whole[:-3], whole[:-9], chunks, chunks[:-6]]
    answers.append(response("404 Not Found", b'{"detail": "select again"}'))
    with (
        tiny_server(here, lambda _: answers.pop(0)),
        Client(Address(socket=str(here)), AMPLE) as client,
    ):
        assert list(client.lines("/x")) == [b'{"a": 1}\n', b'{"b": 2}\n']
        for _ in range(4):
            with pytest.raises(CallError, match="cut off"):
                list(client.lines("/x"))
        with pytest.raises(CallError, match="select again"):
            next(client.lines("/x"))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:5002", Address("127.0.0.1", 5002)),
        ("box:80/", Address("box", 80)),
        ("http://[::1]", Address("::1", 5002)),
    ],
)
def test_urls(url, address):
    """A control address may be written with or without scheme and port."""
    assert parse_url(url) == address


@pytest.mark.parametrize("url", ["https://box", "http://box/api", "http://u:p@box", "http://", "ftp://box"])
def test_bad_urls(url):
    """Anything that is not a control address is refused with a sentence."""
    with pytest.raises(ValueError, match="http://host:port"):
        parse_url(url)
