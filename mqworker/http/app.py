"""The Flask app: every route in the tables, and the same rules for all of them.

Runs in the server's threads, behind access.py. Turns everything that is raised into a problem document.
"""

import contextlib
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, request
from werkzeug.routing import Rule

from mqworker.http import (
    audit,
    consumers,
    faults,
    feed,
    generations,
    health,
    held,
    legacy_routes,
    letters,
    login,
    messages,
    metrics_route,
    openapi,
    operations,
    peers_route,
    queues,
    sending,
    shared,
    sources,
    stages,
    streams,
    ui_files,
)
from mqworker.http.access import refuse_foreign
from mqworker.http.logins import CALLER, Identity, page_sent
from mqworker.http.problems import Problem, problem_of
from mqworker.http.routing import SMALL_BODY, Api, Route, json_response

ROUTES: list[Route] = [
    *legacy_routes.ROUTES,
    *health.ROUTES,
    *stages.ROUTES,
    *generations.ROUTES,
    *sending.ROUTES,
    *held.ROUTES,
    *messages.ROUTES,
    *faults.ROUTES,
    *consumers.ROUTES,
    *queues.ROUTES,
    *shared.ROUTES,
    *sources.ROUTES,
    *streams.ROUTES,
    *feed.ROUTES,
    *metrics_route.ROUTES,
    *login.ROUTES,
    *audit.ROUTES,
    *peers_route.ROUTES,
    *ui_files.ROUTES,
    *letters.ROUTES,
    *operations.ROUTES,
]
ROUTES.append(openapi.route(ROUTES))

JSON_TYPES = ("application/json", "application/merge-patch+json")


class _OneWay(Rule):
    """A rule that cannot build URLs: nobody needs that, and compiling for it takes most of the time that a rule costs.

    Should Werkzeug rename this private method, only that time is lost again.
    """

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:  # noqa: ARG002 - its interface
        return _no_path


def _no_path(*_: Any, **__: Any) -> tuple[str, str]:
    raise NotImplementedError("the path of a view")


def make_app(api: Api) -> Flask:
    """Return the app; `api` is what its views work with."""
    app = Flask("mqworker.http", static_folder=None, template_folder=None)
    app.debug = False  # whatever the environment sets
    app.config.update(TESTING=False, PROPAGATE_EXCEPTIONS=False, PROVIDE_AUTOMATIC_OPTIONS=True)
    app.url_map.merge_slashes = False
    app.url_rule_class = _OneWay
    app.register_error_handler(Exception, lambda error: problem_of(error).response())
    by_endpoint = {f"{route.method} {route.path}": route for route in ROUTES}
    for endpoint, route in by_endpoint.items():
        app.add_url_rule(route.path, endpoint, _view(api, route), methods=[route.method])

    @app.before_request
    def check() -> None:
        route = by_endpoint.get(request.endpoint or "")
        if route is not None and request.method != "OPTIONS":
            audit.begin(route)
            _check(route)

    @app.after_request
    def note(response: Response) -> Response:
        route = by_endpoint.get(request.endpoint or "")
        if route is not None and request.method != "OPTIONS":
            audit.finish(api, route, response)
        return response

    return app


def _view(api: Api, route: Route) -> Any:
    def view(**path: str) -> Response:
        with api.places.slow() if route.slow else contextlib.nullcontext():
            answer = route.view(api, **path)
        if isinstance(answer, Response):
            return answer
        return json_response(*answer) if isinstance(answer, tuple) else json_response(answer)

    return view


def _check_caller(route: Route) -> None:
    """Refuse what the caller may not do (S3), and a request with a cookie that the page has not sent (S5)."""
    caller: Identity | None = request.environ.get(CALLER)
    if route.needs_control and caller is None:
        raise Problem(401, "it is not known who calls")
    if route.has_effects and caller is not None and caller.session and not page_sent(request.environ):
        raise Problem(403, "with a cookie only the page changes anything: X-Mqworker is missing")
    if route.needs_control and caller is not None and caller.role != "control":
        raise Problem(403, "this login is read-only", kind="role")


def _check(route: Route) -> None:
    """Refuse what no view should see: S4, S5 and S8 in docs/faults.md."""
    if route.has_effects and request.method == "HEAD":
        raise Problem(405, "HEAD has no effects", headers={"Allow": "GET, POST"})
    if route.has_effects or route.slow:
        refuse_foreign(request.environ)
    _check_caller(route)
    for name in request.args:
        if name not in route.query and (route.query or route.has_effects):
            reason = f"is unknown; known: {', '.join(route.query) or 'none'}"
            raise Problem(422, f"the query parameter {name!r} {reason}", fields=[(name, reason)])
    if route.any_body or not request.content_length:
        return
    if request.content_length > SMALL_BODY:
        raise Problem(413, f"the body is larger than {SMALL_BODY} bytes")
    if route.has_effects and request.mimetype not in JSON_TYPES:
        raise Problem(415, "the body must be JSON: Content-Type: application/json")
