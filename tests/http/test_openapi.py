"""The API's description is generated from the route table, and the table is true."""

import re

import pytest

from mqworker.control.errors import ControlError
from mqworker.http.app import ROUTES, make_app
from mqworker.http.openapi import HEADERS, QUERY, template

FOUR = {"/startlistening", "/stoplistening", "/startworking", "/stopworking"}
FILLED = {"stage": "alpha", "queue": "alpha.in", "letter": "ab12", "name": "f", "message": "1", "selection": "5e1ec7"}
FILLED |= {"operation": "0b", "message_id": "1", "slot": "0"}


def path_of(route) -> str:
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda found: FILLED[found[1]], route.path)


def test_every_route_is_described(service):
    """The document and the app's URL map have the same methods and paths."""
    told = service.ask("GET", "/api/v1/openapi.json").json
    described = {(method.upper(), path) for path, item in told["paths"].items() for method in item}
    app = make_app(service.server._answering.api)
    registered = {
        (method, template(rule.rule))
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert described == registered
    assert len(described) == len(ROUTES)
    assert told["openapi"].startswith("3.1")


def test_references_lead_somewhere(service):
    """Every referenced schema exists, and every query parameter and header is explained."""
    answer = service.ask("GET", "/api/v1/openapi.json")
    schemas = answer.json["components"]["schemas"]
    for name in re.findall(r"#/components/schemas/(\w+)", answer.body.decode()):
        assert name in schemas
    assert {name for route in ROUTES for name in route.query} == set(QUERY)
    assert {name for route in ROUTES for name in route.headers} == set(HEADERS)
    sending = answer.json["paths"]["/api/v1/stages/{stage}/messages"]["post"]["parameters"]
    names = {"X-Message-Id", "X-Correlation-Id", "X-Message-Headers"}
    assert {each["name"] for each in sending if each["in"] == "header"} == names
    assert schemas["NewJob"]["required"] == ["job"]


def test_nothing_here(service):
    """An unknown path gets 404, a wrong method 405 with the allowed ones; both as problem documents."""
    for path in (
        "/api/v1/nothing",
        "/api/v2/stages",
        "/livez/",
        "/api/v1//stages",
        "/static/x",
        "/api/v1/stages/alpha/nothing",
    ):
        answer = service.ask("GET", path)
        assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")
    answer = service.ask("DELETE", "/api/v1/stages/alpha/listening")
    assert (answer.status, set(answer.headers["allow"].split(", "))) == (405, {"OPTIONS", "PUT"})


def test_no_debug_by_environment(service, monkeypatch):
    """No environment variable switches Flask's debugger on."""
    for name in ("FLASK_DEBUG", "FLASK_ENV", "WERKZEUG_DEBUG_PIN", "FLASK_TESTING", "FLASK_PROPAGATE_EXCEPTIONS"):
        monkeypatch.setenv(name, "1")
    app = make_app(service.server._answering.api)
    assert (app.debug, app.testing, app.config["PROPAGATE_EXCEPTIONS"]) == (False, False, False)


def test_get_changes_nothing(service):
    """GET, HEAD and OPTIONS change nothing on any route, except GET of the article's four."""
    looks: dict = {"queues": [], "dlq_list": {"dead_letters": []}, "dlq_groups": {"groups": []}, "dlq_selected": []}
    looks["dlq_find"] = {"letters": [], "ages": {}}
    service.admin |= looks | {"dlq_show": ControlError("refused", "no such queue")}
    for route in ROUTES:
        for method in ("GET", "HEAD", "OPTIONS"):
            if method == "GET" and (route.path in FOUR or route.stream):
                continue
            service.ask(method, path_of(route))
    assert (service.changes, service.drained) == ([], False)
    assert {verb for verb, *_ in service.asked} <= {*looks, "dlq_show"}


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.has_effects], ids=lambda r: f"{r.method} {r.path}"
)
def test_effects_are_guarded(service, route):
    """Every route with effects refuses what another site's page sends."""
    assert service.ask(route.method, path_of(route), Origin="http://evil.example").status == 403
