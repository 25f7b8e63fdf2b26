"""Sending over HTTP, waiting for a result, queues, dead letters: what the broker admin is asked, what is answered."""

import asyncio
import base64
import http.client
import json
import uuid

import pytest

from mqworker.amqp.properties import Headers, Properties
from mqworker.control.errors import ControlError

MESSAGES = "/api/v1/stages/alpha/messages"
LINES = f"{MESSAGES}?each=line"


def reply(body: bytes, content_type: str | None = "application/json", **table) -> list:
    """Return what the broker admin returns for a result."""
    names = {f"x-mqworker-{name.replace('_', '-')}": value for name, value in table.items()}
    return [(Properties(content_type=content_type, headers=Headers(names)).encode(), body)]


@pytest.mark.parametrize(
    ("body", "sent", "kept"),
    [
        (b'{"n": 1}', "application/json", "application/json"),
        (b"\x00\xff\n", "application/octet-stream", "application/octet-stream"),
        (b"hello", "text/plain; charset=latin-1", "text/plain; charset=latin-1"),
        (b'{"n": 1}', "application/x-www-form-urlencoded", None),
        (b"", "application/msgpack", "application/msgpack"),
        (b"x" * 150_000, "application/x-own", "application/x-own"),
    ],
)
def test_send(service, body, sent, kept):
    """Any body goes unchanged to the input queue, persistent, with an id, the content type and the correlation id."""
    service.admin["send"] = None
    answer = service.ask("POST", MESSAGES, body, Content_Type=sent, X_Correlation_Id="c-1")
    assert answer.status == 202
    ((verb, asked, _deadline),) = service.asked
    properties = Properties.decode(asked["properties"])
    assert (verb, asked["queue"], asked["body"]) == ("send", "alpha.in", body)
    assert (properties.content_type, properties.correlation_id, properties.delivery_mode) == (kept, "c-1", 2)
    assert properties.message_id == answer.json["message_id"] == str(uuid.UUID(answer.json["message_id"]))
    assert properties.timestamp


def test_the_caller_may_choose_the_message_id(service):
    """`X-Message-Id` is the id of the message; one that no message can have is refused with a sentence."""
    service.admin["send"] = None
    answer = service.ask("POST", MESSAGES, {"n": 1}, X_Message_Id="order-7")
    assert (answer.status, answer.json["message_id"]) == (202, "order-7")
    assert Properties.decode(service.asked[0][1]["properties"]).message_id == "order-7"
    assert service.ask("POST", MESSAGES, {"n": 1}, X_Message_Id="x" * 256).status == 422


def test_ids_in_utf_8_are_taken_as_they_are(service):
    """`X-Message-Id` and `X-Correlation-Id` are UTF-8, and arrive as such; other bytes are refused with a sentence."""
    service.admin["send"] = None
    sent = "größe-€".encode().decode("latin-1")  # what http.client and curl send as these bytes
    answer = service.ask("POST", MESSAGES, {"n": 1}, X_Message_Id=sent, X_Correlation_Id=sent)
    assert (answer.status, answer.json["message_id"]) == (202, "größe-€")
    properties = Properties.decode(service.asked[0][1]["properties"])
    assert (properties.message_id, properties.correlation_id) == ("größe-€", "größe-€")
    refused = service.ask("POST", MESSAGES, {"n": 1}, X_Message_Id="\xff")
    assert (refused.status, refused.json["detail"]) == (422, "the header X-Message-Id is not UTF-8")


def test_headers_of_a_message(service):
    """`X-Message-Headers` is a JSON object of texts, numbers and booleans; names keep their case."""
    service.admin["send"] = None
    table = {"Camera": "größe", "n": 7, "share": 0.5, "last": True}
    assert service.ask("POST", MESSAGES, {"n": 1}, X_Message_Headers=json.dumps(table)).status == 202
    assert Properties.decode(service.asked[0][1]["properties"]).headers.to_dict() == table
    assert service.ask("POST", MESSAGES, {"n": 1}, X_Message_Headers='{"x-mqworker-signature": "ab"}').status == 202


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ('{"x-mqworker-attempt": 3}', "the header x-mqworker-attempt of a message is set by mqworker alone"),
        ('{"x-death": "no"}', "the header x-death of a message is set by brokers alone"),
        ('{"x-first-death-queue": "q"}', "is set by brokers alone"),
        ('{"CC": "other"}', "the header CC of a message has the broker send copies to other queues"),
        ('{"a": [1]}', "X-Message-Headers must be a JSON object of texts, numbers and booleans"),
        ("camera=1", "must be a JSON object"),
        ('["camera"]', "must be a JSON object"),
        (f'{{"{"x" * 256}": 1}}', "must be a JSON object"),
        (f'{{"n": {1 << 64}}}', "must be a JSON object"),
    ],
)
def test_headers_that_no_message_may_have(service, given, told):
    """What mqworker or a broker sets, and what AMQP or JSON cannot say, is refused with a sentence."""
    service.admin["send"] = None
    refused = service.ask("POST", MESSAGES, {"n": 1}, X_Message_Headers=given)
    assert (refused.status, told in refused.json["detail"], service.asked) == (422, True, [])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (reply(b'{"x": [1]}', duration_ms=12.5, stage="alpha"), {"result": {"x": [1]}, "duration_ms": 12.5}),
        (reply(b"plain", "text/plain"), {"result": "plain", "outcome": "result"}),
        (reply(b"\xff\x00", "application/octet-stream"), {"result_base64": base64.b64encode(b"\xff\x00").decode()}),
        (reply(b"{broken"), {"result_base64": base64.b64encode(b"{broken").decode()}),
        (reply(b"", None, outcome="dropped"), {"outcome": "dropped", "result": None}),
        ([(b"\xff\xff\xff", b"x")], {"outcome": "result", "content_type": None}),
    ],
)
def test_wait_for_the_result(service, given, told):
    """`?wait=` returns a result of any kind, with its headers."""
    service.admin["call"] = given
    answer = service.ask("POST", f"{MESSAGES}?wait=5", {"n": 1})
    assert (answer.status, service.asked[0][0], service.asked[0][2]) == (200, "call", 5.0)
    assert told.items() <= answer.json.items()


def test_wait_for_several_results(service):
    """A message that yields is answered with the list of its results, also if there is only one."""
    first, second = (reply(b"%d" % n, part=n, parts=2, duration_ms=7.5)[0] for n in (1, 2))
    service.admin["call"] = [first, second]
    answer = service.ask("POST", f"{MESSAGES}?wait=5", {"n": 1}).json
    assert (answer["outcome"], answer["duration_ms"], "result" in answer) == ("result", 7.5, False)
    assert [each["result"] for each in answer["results"]] == [1, 2]
    service.admin["call"] = reply(b"1", part=1, parts=1)
    assert [each["result"] for each in service.ask("POST", f"{MESSAGES}?wait=5", {"n": 1}).json["results"]] == [1]


def test_wait_for_a_dead_message(service):
    """For a message that failed for good, the answer is 422 with the reason."""
    service.admin["call"] = reply(b"", outcome="dead", reason="reject", message="no such battery", error_type="Reject")
    answer = service.ask("POST", f"{MESSAGES}?wait=5", {"n": 1})
    assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json")
    assert (answer.json["reason"], answer.json["detail"]) == ("reject", "no such battery")


def test_no_result_in_time(service):
    """Without a result in time, the answer is 504 with the message id."""

    def answer_late(_arguments):
        async def late():
            await asyncio.sleep(0.2)
            return ControlError("unavailable", "no reply")

        return late()

    service.admin["call"] = answer_late
    answer = service.ask("POST", f"{MESSAGES}?wait=0.2", {"n": 1})
    assert (answer.status, len(answer.json["message_id"])) == (504, 36)
    service.admin["call"] = ControlError("unavailable", "the broker cannot be reached")
    assert service.ask("POST", f"{MESSAGES}?wait=5", {"n": 1}).status == 503


def test_too_large_for_the_stage(service):
    """A body above the stage's max_body gets 413 before it reaches the broker, one above all on its way in."""
    beta = "/api/v1/stages/beta/messages"
    service.admin["send"] = None
    assert service.ask("POST", beta, b"x" * 1000).status == 202
    assert service.ask("POST", beta, b"x" * 1001).status == 413
    assert service.ask("POST", MESSAGES, b"x" * 200_000).status == 202
    connection = service.connect()
    connection.putrequest("POST", MESSAGES)
    connection.putheader("Content-Length", "200001")
    connection.endheaders()
    refused = connection.getresponse()
    assert refused.status == 413
    assert b"larger than 200000 bytes; max_body of the stage" in refused.read()
    connection.close()
    assert len(service.asked) == 2


def test_each_line_is_a_message(service):
    """With `?each=line` each line that is not blank is a message with an id of its own; those refused are named."""
    service.admin["send_many"] = ["", "returned: NO_ROUTE", ""]
    body = b'{"n": 1}\r\n\n {"n": 2}\n{"n": 3}'
    named = {"Content_Type": "application/json", "X_Message_Id": "run", "X_Correlation_Id": "c-1"}
    answer = service.ask("POST", f"{LINES}&first=7", body, **named)
    refused = [{"line": 9, "reason": "returned: NO_ROUTE"}]
    assert (answer.status, answer.json) == (200, {"message_id": "run", "confirmed": 2, "refused": refused})
    ((verb, asked, _deadline),) = service.asked
    assert (verb, asked["queue"]) == ("send_many", "alpha.in")
    assert [sent for _, sent in asked["messages"]] == [b'{"n": 1}', b' {"n": 2}', b'{"n": 3}']
    told = [Properties.decode(block) for block, _ in asked["messages"]]
    assert [each.message_id for each in told] == ["run.7", "run.9", "run.10"]
    assert {(each.content_type, each.correlation_id, each.delivery_mode) for each in told} == {
        ("application/json", "c-1", 2)
    }


def test_lines_get_an_id_where_the_caller_names_none(service):
    """The answer holds it, so that the id of each line is known; of blank lines nothing is sent."""
    service.admin["send_many"] = [""]
    run = service.ask("POST", LINES, b"x", Content_Type="text/plain").json["message_id"]
    assert run == str(uuid.UUID(run))
    ((block, _),) = service.asked[0][1]["messages"]
    assert Properties.decode(block).message_id == f"{run}.1"
    assert service.ask("POST", LINES, b"\n \r\n\t\n").json["confirmed"] == 0
    assert len(service.asked) == 1


def test_a_line_that_is_too_large_ends_the_lines(service):
    """It is named, those before it are sent and none behind it; together they may have more bytes than one message."""
    beta = "/api/v1/stages/beta/messages?each=line"
    service.admin["send_many"] = lambda asked: [""] * len(asked["messages"])
    lines = [b"x" * 1000] * 2000
    assert service.ask("POST", beta, b"\n".join(lines)).json["confirmed"] == 2000
    lines[1500] += b"x"
    answer = service.ask("POST", beta, b"\n".join(lines)).json
    reason = "it has 1001 bytes; max_body of this stage allows 1000"
    assert (answer["confirmed"], answer["refused"]) == (1500, [{"line": 1501, "reason": reason}])
    assert len(service.asked[1][1]["messages"]) == 1500


@pytest.mark.parametrize(
    ("query", "body", "status"),
    [
        ("each=word", b"x", 422),
        ("each=line&wait=1", b"x", 422),
        ("each=line&first=0", b"x", 422),
        ("each=line", b"x\n" * 5001, 422),
        ("each=line", b"x" * ((4 << 20) + 1), 413),
    ],
)
def test_lines_that_are_asked_for_wrongly(service, query, body, status):
    """Another way to divide, a wait for results, too many lines or bytes: refused before anything is sent."""
    service.admin["send_many"] = []
    assert service.ask("POST", f"{MESSAGES}?{query}", body).status == status
    assert service.asked == []


@pytest.mark.parametrize("header", [{"X_Correlation_Id": "x" * 300}, {"Content_Type": "a/" + "b" * 300}])
def test_headers_that_do_not_fit(service, header):
    """A header that no AMQP property can hold gets 422."""
    service.admin["send"] = None
    assert service.ask("POST", MESSAGES, b"x", **header).status == 422
    assert service.asked == []


def test_queues(service):
    """Queues are listed, purged and deleted through the broker admin, whatever characters their names contain."""
    rows = [{"name": "beta/in", "messages": 1, "consumers": 0, "role": "input", "stage": "beta"}]
    service.admin |= {"queues": rows, "purge": 7, "delete": 3}
    assert service.ask("GET", "/api/v1/queues").json == {"queues": rows}
    assert service.ask("POST", "/api/v1/queues/beta%2Fin/purge").json == {"purged": 7}
    assert service.ask("DELETE", "/api/v1/queues/%C3%BCber%20x%3F/%3Cb%3E").json == {"deleted": 3}
    assert [asked[:2] for asked in service.asked[1:]] == [
        ("purge", {"name": "beta/in"}),
        ("delete", {"name": "über x?/<b>"}),
    ]
    service.admin["delete"] = ControlError("refused", "there is no queue x")
    assert service.ask("DELETE", "/api/v1/queues/x").status == 409


def test_receiving(service):
    """Messages are taken in two steps, from a queue of any name; ids and limits that make no sense are refused."""
    message = {"id": "ab12", "message_id": "m", "headers": {}, "properties": b"\x00\x00", "body": b"1"}
    service.admin["receive"] = lambda _asked: [dict(message)]
    path = "/api/v1/queues/receive"
    told = service.ask("POST", path, {"name": "a/receive", "limit": 3, "taken": ["ab12"]}).json["messages"]
    assert [(each["id"], base64.b64decode(each["body_base64"])) for each in told] == [("ab12", b"1")]
    assert service.asked[0][:2] == ("receive", {"name": "a/receive", "limit": 3, "taken": ["ab12"]})
    for wrong in ({}, {"name": "q", "limit": 201}, {"name": "q", "taken": "ab12"}, {"name": "q", "taken": ["a"] * 201}):
        assert service.ask("POST", path, wrong).status == 422
    service.admin["receive"] = ControlError("refused", "there is no queue q")
    assert service.ask("POST", path, {"name": "q"}).status == 409


def test_dead_letters(service):
    """Dead letters are listed, shown in full, replayed and dropped through the broker admin."""
    dlq = "/api/v1/stages/alpha/dlq"
    letter = {"id": "ab12", "reason": "error", "headers": {"x": "\\xff"}, "properties": b"\x00\x00", "body": b"\xffa"}
    listed = {"dead_letters": [{"id": "ab12", "text": "why"}], "total": 1}
    service.admin |= {"dlq_list": listed, "dlq_show": lambda _: [dict(letter)], "dlq_replay": 2, "dlq_drop": 1}
    told = service.ask("GET", f"{dlq}?limit=5&reason=error&attempt=2&fresh=0").json
    assert told == {"dead_letters": [{"id": "ab12", "text": "why", "message": "why"}], "total": 1}
    shown = service.ask("GET", f"{dlq}/ab12").json
    assert (shown["body_base64"], shown["body_text"]) == (base64.b64encode(b"\xffa").decode(), "\\xffa")
    assert shown["headers"] == {"x": "\\xff"}
    assert service.ask("POST", f"{dlq}/replay", {"ids": ["ab12"]}).json == {"replayed": 2}
    assert service.ask("DELETE", f"{dlq}/ab12").json == {"dropped": 1}
    chosen = {"reason": "error", "attempt": 2}
    assert [asked[:2] for asked in service.asked] == [
        ("dlq_list", {"stage": "alpha", "chosen": chosen, "fresh": 0.0, "limit": 5, "after": 0}),
        ("dlq_show", {"stage": "alpha", "ids": ["ab12"], "preview": True}),
        ("dlq_replay", {"stage": "alpha", "ids": ["ab12"]}),
        ("dlq_drop", {"stage": "alpha", "ids": ["ab12"], "limit": 1}),
    ]
    service.admin |= {"dlq_show": [], "dlq_drop": 0}
    unknown = service.ask("GET", f"{dlq}/zz")
    assert (unknown.status, "`mqworker dlq list` shows them" in unknown.json["detail"]) == (404, True)
    assert service.ask("DELETE", f"{dlq}/zz").status == 404
    for wrong in ({"id": "ab12"}, {"reason": ""}):
        assert service.ask("POST", f"{dlq}/replay", wrong).status == 422
    empty = service.ask("GET", f"{dlq}?message_id=")
    assert (empty.status, "message_id" in empty.json["detail"]) == (422, True)
    assert service.ask("GET", "/api/v1/stages/zeta/dlq").status == 404


def test_selections(service):
    """Dead letters are selected by a filter, confirmed by their number, and exported a line each, equal ones too."""
    dlq = "/api/v1/stages/alpha/dlq"
    service.admin["dlq_select"] = {"selection": "5e1ec7", "count": 2, "oldest": None, "newest": None, "complete": True}
    selected = service.ask("POST", f"{dlq}/selections", {"error_type": "ValueError", "ids": ["a"]})
    assert (selected.status, selected.json["count"]) == (201, 2)
    assert service.asked[-1][1] == {"stage": "alpha", "chosen": {"error_type": "ValueError", "ids": ["a"]}}
    for wrong in ({"type": "x"}, {"limit": 0}, {"ids": ["a"] * 3001}, {"message_id": ""}):
        assert service.ask("POST", f"{dlq}/selections", wrong).status == 422
    path = f"{dlq}/selections/5e1ec7"
    refused = service.ask("POST", f"{path}/replay", {"count": 3})
    assert (refused.status, refused.json["kind"]) == (409, "count")
    forgotten = service.ask("POST", f"{dlq}/selections/0/drop", {"count": 2})
    assert (forgotten.status, forgotten.json["kind"]) == (404, "unknown_selection")
    assert service.ask("POST", f"{path}/replay", {}).status == 422
    begun = service.ask("POST", f"{path}/replay", {"count": 2})
    assert (begun.status, begun.json) == (202, {"operation": "0b"})
    (view,) = service.ask("GET", "/api/v1/operations").json["operations"]
    assert (view["kind"], view["state"], view["done"], view["wanted"]) == ("replay", "done", 2, 2)
    assert service.ask("GET", "/api/v1/operations/0b").json == view
    assert service.ask("DELETE", "/api/v1/operations/0b").status == 202
    assert service.ask("GET", "/api/v1/operations/1").json["kind"] == "unknown_operation"
    assert (
        'bulk_messages_total{kind="replay",outcome="done",stage="alpha"} 2.0'
        in service.ask("GET", "/metrics").body.decode()
    )

    there = {"a": b"1", "b": b"2"}
    service.admin["dlq_selected"] = ["a", "b", "a", "gone"]
    service.admin["dlq_show"] = (
        lambda asked: [  # one at a time, as if they were large
            {"id": each, "body": there[each], "properties": b""} for each in asked["ids"] if each in there
        ][:1]
    )
    exported = service.ask("GET", f"{path}/export")
    assert exported.headers["content-disposition"] == 'attachment; filename="alpha-5e1ec7.jsonl"'
    assert [json.loads(line)["body_text"] for line in exported.body.splitlines()] == ["1", "1", "2"]
    answers = [[{"id": "a", "body": b"1", "properties": b""}], ControlError("unavailable", "the broker is away")]
    service.admin["dlq_show"] = lambda _: answers.pop(0)
    with pytest.raises(http.client.IncompleteRead):
        service.ask("GET", f"{path}/export")

    def last(_asked):  # the service begins to end meanwhile
        service.server._answering.api.stopping.set()
        return [{"id": "a", "body": b"1", "properties": b""}]

    service.admin["dlq_show"] = last
    with pytest.raises(http.client.IncompleteRead):
        service.ask("GET", f"{path}/export")


def test_an_edited_dead_letter(service):
    """Its new body goes as it is, with what is changed; a header that only mqworker or a broker may set is refused."""
    path = "/api/v1/stages/alpha/dlq/ab12/messages"
    service.admin["dlq_edit"] = 1
    form = {"Content-Type": "text/plain", "X-Message-Headers": '{"tenant": "t", "n": 9223372036854775807, "old": null}'}
    assert service.ask("POST", path, b"\xffbody", **form).json == {"replayed": 1}
    changes = {
        "content_type": "text/plain",
        "content_encoding": None,
        "headers": {"tenant": "t", "n": 2**63 - 1, "old": None},
    }
    asked = {"stage": "alpha", "letter": "ab12", "body": b"\xffbody", "changes": changes}
    assert service.asked[-1][:2] == ("dlq_edit", asked)
    assert service.ask("POST", path, b"", **{"Content-Type": "text/" + "x" * 255}).status == 422
    for wrong in ('{"x-mqworker-attempt": 1}', '{"CC": "q"}', '{"n": 9223372036854775808}', '{"n": []}', "no JSON"):
        assert service.ask("POST", path, b"", **{"X-Message-Headers": wrong}).status == 422, wrong
    assert service.ask("POST", path, bytes(150_000)).status == 200, "more than other requests may have"
    service.admin["dlq_edit"] = 0
    assert service.ask("POST", path, b"").status == 404
    assert service.ask("POST", "/api/v1/stages/beta/dlq/ab12/messages", bytes(1001)).status == 413
