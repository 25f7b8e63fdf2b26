"""/openapi.json, generated from the route tables: OpenAPI 3.1. Pure."""

import re
from typing import Any

import msgspec

from mqworker import __version__
from mqworker.http.logins import PAGE
from mqworker.http.problems import CONTENT_TYPE
from mqworker.http.routing import API, Api, Route

QUERY = {
    "force": ("boolean", "Stop although the broker then deletes messages"),
    "wait": ("number", "Seconds, at most 30, to wait for the change to be applied, or for the result"),
    "each": ("string", "line: each line of the body that is not blank is a message; at most 5,000 lines"),
    "first": ("integer", "With each: the number of the first line; the id of line N is the message id, a dot and N"),
    "stage": ("string", "Only this stage"),
    "lines": ("integer", "How many lines, at most 2,000"),
    "follow": ("string", "1: stream them as server-sent events"),
    "message": ("string", "Only lines about the message with this id"),
    "event": ("string", "Only lines of this event"),
    "after": ("string", "What to go on behind: the id of the Feed's last tick, the number of a record, or `next`"),
    "limit": ("integer", "How many at most"),
    "topics": ("string", "What to report, separated by commas: overview, stage:NAME, logs, operations, audit, peers"),
    "once": ("string", "1: answer with the events of now, and end"),
    "level": ("string", "Only log lines at least as severe: debug, info, warning, error"),
    "look": ("boolean", "Go through the dead letters too, which may take 25 s"),
    "id": ("string", "The id of a message, at most 255 bytes"),
    "seconds": ("integer", "How far back, at most 21,600; above 900 in steps of 15 s"),
    "series": ("string", "Only these, separated by commas"),
    "ids": ("string", "Only these, separated by commas, in full; fewer are returned when some are large or gone"),
    "fresh": ("number", "Seconds: how old the list may be; 0: look now, but at most once in 5 s"),
    "reason": ("string", "Only those with this reason"),
    "error_type": ("string", "Only those with this type of error"),
    "place": ("string", "Only those that failed at this place in the code"),
    "fault": ("string", "Only those of the group with this key"),
    "message_id": ("string", "Only those with this message id, the whole of it"),
    "text": (
        "string",
        "Only what has this text: a log line; of a letter its message id, error and headers",
    ),
    "header": ("string", "Only those with this header: NAME=VALUE"),
    "since": ("string", "Only those that failed at this time or later (RFC 3339)"),
    "until": ("string", "Only those that failed before this time (RFC 3339)"),
    "attempt": ("integer", "Only those that failed at this attempt"),
    "generation": ("integer", "Only those that failed under this generation of the stage"),
}
HEADERS = {
    "X-Message-Id": "The id of the message, in UTF-8; without it one is made",
    "X-Correlation-Id": "The correlation id of the message, in UTF-8",
    "X-Message-Headers": "The headers of the message: a JSON object of texts, numbers and booleans",
    "Last-Event-ID": "As `after`",
    "If-Match": "The generation that was seen, as in the ETag: 412 if there is another one by now",
}
PROBLEM = {
    "description": "Why the request failed (RFC 9457)",
    "content": {CONTENT_TYPE: {"schema": {"type": "object"}}},
}


def document(routes: list[Route], cookie: str) -> dict[str, Any]:
    """Describe every route; `cookie` is the name of the page's."""
    forms = [route.body for route in routes if route.body is not None]
    schemas, components = msgspec.json.schema_components(forms, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(map(repr, forms), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation: dict[str, Any] = {
            "summary": route.summary,
            "parameters": [*_path(route), *_query(route), *_headers(route)],
        }
        if route.any_body:
            operation["requestBody"] = {"content": {"*/*": {}}}
        elif route.body is not None:
            operation["requestBody"] = {"content": {"application/json": {"schema": schema_of[repr(route.body)]}}}
        operation["responses"] = {"2XX": {"description": "Done, or stored"}, "default": PROBLEM}
        paths.setdefault(template(route.path), {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "mqworker", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "control.token, or control.read_token"},
                "cookie": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": cookie,
                    "description": f"The page's login; every request with it needs X-Mqworker: {PAGE}",
                },
            },
        },
        "security": [{"token": []}, {"cookie": []}, {}],
    }


def template(path: str) -> str:
    """Convert a werkzeug path to an OpenAPI one."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path)


def _path(route: Route) -> list[dict[str, Any]]:
    names = re.findall(r"<(?:\w+:)?(\w+)>", route.path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "description": QUERY[name][1], "schema": {"type": QUERY[name][0]}}
        for name in route.query
    ]


def _headers(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "description": HEADERS[name], "schema": {"type": "string"}}
        for name in route.headers
    ]


def route(routes: list[Route]) -> Route:
    """Return the route that describes all routes, itself included."""

    def view(api: Api) -> Any:
        return document(routes, api.logins.sessions.cookie)

    return Route("GET", f"{API}/openapi.json", view, "This description")
