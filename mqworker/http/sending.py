"""The route that sends a message and, with `?wait=`, returns its result, or sends many. Runs in the server's threads.

The body goes unchanged to the stage's input queue, by way of the broker admin. curl labels every body a form unless
given another type, so that content type counts as none: the stage's codec decides. The caller may choose the message id
(`X-Message-Id`): then it can follow the message in the log while it waits. Headers of the message come as a JSON object
in `X-Message-Headers`, because names of HTTP headers have no case.

With `?each=line` each line of the body that is not blank is a message, confirmed or refused on its own. The id
of line N, counted from `first`, is the message id, a dot and N: whoever sends lines again sends them with the same ids.
"""

import base64
import time
import uuid
from typing import Any

import msgspec
from flask import request

from mqworker.amqp import headers
from mqworker.amqp.properties import Headers, Properties, decode_leniently
from mqworker.config.model import StageConfig
from mqworker.control.errors import ControlError
from mqworker.http.problems import Problem
from mqworker.http.routing import API, Api, Route, number, requested_wait
from mqworker.http.send_places import patience_for
from mqworker.ipc.json_safe import text, tree

SEND_DEADLINE = 10.0  # seconds for the broker to confirm
LINES = 5000  # of one request
FORM = "application/x-www-form-urlencoded"
TABLE = "X-Message-Headers"


def send(api: Api, stage: str) -> Any:
    """Send one message, or each line of the body as one."""
    api.stage(stage)
    config = api.control.loaded.config.stages[stage]
    if "each" in request.args:
        return _send_lines(api, stage, config)
    data, wait = request.get_data(), requested_wait()
    if len(data) > config.max_body:
        raise Problem(413, f"the body has {len(data)} bytes; max_body of this stage allows {config.max_body}")
    properties = _properties()
    message_id = properties.message_id
    arguments = {"queue": config.input.queue, "properties": _encoded(properties), "body": data}
    sending = api.places.sends.sending(stage, patience_for(len(data)))
    with api.waiting() if "wait" in request.args else sending:  # as serving.py tells them apart
        if not wait:
            api.control.ask_admin("send", arguments, SEND_DEADLINE)
            return {"message_id": message_id}, 202
        began = time.monotonic()
        try:
            replies = api.control.ask_admin("call", arguments, wait)
        except ControlError as error:
            if time.monotonic() - began < wait * 0.9:
                raise
            message = f"there was no result within {wait:g} s; the message may still be processed"
            raise Problem(504, message, message_id=message_id) from error
        took = time.monotonic() - began
    return _answer(replies) | {"message_id": message_id, "waited_ms": round(took * 1000, 3)}


def _send_lines(api: Api, stage: str, config: StageConfig) -> Any:
    """Send each line, up to the first that is too large; say how many are confirmed, and which were refused."""
    if request.args["each"] != "line" or "wait" in request.args:
        reason = "must be line, without wait"
        raise Problem(422, f"each {reason}", fields=[("each", reason)])
    body = request.get_data()
    lines = body.split(b"\n")
    if len(lines) > LINES + 1:  # after the last end of a line there is an empty one
        raise Problem(422, f"the body has more than {LINES:,} lines; send them in several requests")
    properties, first = _properties(), int(number("first", 1, 1, 1e15))
    run = properties.message_id
    numbers, messages, refused = [], [], []
    for at, line in enumerate(lines, first):
        data = line.rstrip(b"\r")
        if not data.strip():
            continue
        if len(data) > config.max_body:
            reason = f"it has {len(data)} bytes; max_body of this stage allows {config.max_body}"
            refused.append({"line": at, "reason": reason})
            break
        properties.message_id = f"{run}.{at}"
        numbers.append(at)
        messages.append((_encoded(properties), data))
    arguments = {"queue": config.input.queue, "messages": messages}
    reasons = []
    if messages:
        with api.places.lines.sending(stage, patience_for(len(body), len(messages))):
            reasons = api.control.ask_admin("send_many", arguments, SEND_DEADLINE)
    refused[:0] = [{"line": at, "reason": reason} for at, reason in zip(numbers, reasons, strict=True) if reason]
    return {"message_id": run, "confirmed": reasons.count(""), "refused": refused}


def _properties() -> Properties:
    content_type = header("Content-Type")
    if content_type is not None and content_type.partition(";")[0].strip().lower() == FORM:
        content_type = None
    return Properties(
        content_type=content_type,
        content_encoding=header("Content-Encoding"),
        delivery_mode=2,
        correlation_id=header("X-Correlation-Id"),
        message_id=header("X-Message-Id") or str(uuid.uuid4()),
        timestamp=int(time.time()),
        headers=_table(),
    )


def _table() -> Headers:
    """Return the headers that the message is to have; raises a 422 Problem."""
    try:
        values = msgspec.json.decode(header(TABLE) or b"{}", type=dict[str, bool | int | float | str])
        table = Headers(values)
    except (msgspec.DecodeError, ValueError) as error:
        raise Problem(422, f"{TABLE} must be a JSON object of texts, numbers and booleans: {error}") from None
    for name in table:
        if why := headers.reserved(name):
            raise Problem(422, f"the header {name} of a message {why}", fields=[(TABLE, f"{name} {why}")])
    return table


def header(name: str) -> str | None:
    """Return a header of the request, which is UTF-8: WSGI passes its bytes as Latin-1."""
    value = request.headers.get(name)
    try:
        return value and value.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        raise Problem(422, f"the header {name} is not UTF-8") from None


def _encoded(properties: Properties) -> bytes:
    try:
        return properties.encode()
    except ValueError as error:
        raise Problem(422, f"a header of the request does not fit into a message: {error}") from None


def _answer(replies: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    """Return what the replies hold: one result, or, of a message that yields, a list of `results`."""
    results = [_result(*reply) for reply in replies]
    if len(results) == 1 and headers.PART not in results[0]["headers"]:
        return results[0]
    return {"outcome": "result", "duration_ms": results[0]["duration_ms"], "results": results}


def _result(block: bytes, data: bytes) -> dict[str, Any]:
    """Return what a reply holds; raises a Problem when the message is dead."""
    properties = decode_leniently(block)
    table = tree(properties.headers.to_dict())
    outcome = table.get(headers.OUTCOME, "result")
    if outcome == "dead":
        reason = str(table.get(headers.REASON, "error"))
        message = str(table.get(headers.MESSAGE, "the message could not be processed"))
        raise Problem(422, message, reason=reason, error_type=table.get(headers.ERROR_TYPE), reply_headers=table)
    duration = table.get(headers.DURATION)
    return {"outcome": outcome, "duration_ms": duration, "headers": table} | json_body(properties.content_type, data)


def json_body(content_type: str | None, data: bytes) -> dict[str, Any]:
    """Return a body for use inside JSON: as `result` when it is JSON or text, else as `result_base64`."""
    media = (content_type or "").partition(";")[0].strip().lower()
    document: dict[str, Any] = {"content_type": content_type and text(content_type)}
    try:
        if media.endswith("json"):
            return document | {"result": msgspec.json.decode(data) if data else None}
        if media.startswith("text/") or not data:
            return document | {"result": data.decode() if data else None}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return document | {"result_base64": base64.b64encode(data).decode()}


ROUTES = [
    Route(
        *("POST", f"{API}/stages/<stage>/messages", send, "Send one message, any content type; or many"),
        query=("wait", "each", "first"),
        any_body=True,
        audited=False,
        headers=("X-Message-Id", "X-Correlation-Id", TABLE),
    )
]
