"""The page's own files: read once, served from memory, without a login.

Runs in the server's threads. The files are those of the package; what the page shows, it requests from the API. A name
is looked up in the table of what was read, so no request can reach another file. The responses have headers of their
own instead of the strict ones that access.py adds to all others.
"""

import functools
import hashlib
from importlib.resources import files
from typing import Any, NamedTuple

from flask import Response, request

from mqworker.http.health import links
from mqworker.http.problems import Problem
from mqworker.http.routing import Api, Route

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-cache",  # kept, and asked for again with the ETag each time
    "Cross-Origin-Opener-Policy": "same-origin",
}
INDEX = "index.html"


class _File(NamedTuple):
    data: bytes
    kind: str
    etag: str


@functools.cache
def ui_files() -> dict[str, _File]:
    """Return the files by their names."""
    found = {}
    for entry in files("mqworker.http").joinpath("ui").iterdir():
        kind = TYPES.get(entry.name.rpartition(".")[2])
        if kind is not None and entry.is_file():
            data = entry.read_bytes()
            found[entry.name] = _File(data, kind, hashlib.sha256(data).hexdigest()[:32])
    return found


def index(_api: Api) -> Response:
    """Return the page."""
    return _answer(ui_files()[INDEX])


def file(_api: Api, name: str) -> Response:
    """Return one of the page's files; `index.html` redirects to `ui/`, from which the page derives its path."""
    if name == INDEX:
        return _led_to("./")
    found = ui_files().get(name)
    if found is None:
        raise Problem(404, "the page has no such file")
    return _answer(found)


def _answer(found: _File) -> Response:
    response = Response(found.data, headers=HEADERS, content_type=found.kind)
    response.set_etag(found.etag)
    response.make_conditional(request)
    return response


def to_page(_api: Api) -> Response:
    """Redirect a browser to the page."""
    return _led_to("ui/")


def root(api: Api) -> Any:
    """Return the paths to start from; a browser is redirected to the page."""
    return _led_to("ui/") if wants_page(request.environ) else links(api)


def wants_page(environ: dict[str, Any]) -> bool:
    """Return whether this is a browser that opens a page."""
    return "text/html" in environ.get("HTTP_ACCEPT", "")


def _led_to(path: str) -> Response:
    response = Response(status=303)
    response.headers["Location"] = path  # relative: before it may be a proxy's prefix, which we do not know
    return response


ROUTES = [
    Route("GET", "/", root, "The paths to start from; a browser is redirected to the page"),
    Route("GET", "/ui", to_page, "Leads to the page"),
    Route("GET", "/ui/", index, "The operator's page"),
    Route("GET", "/ui/<name>", file, "A file of the operator's page"),
]
