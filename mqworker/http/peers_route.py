"""The route for other services. Runs in the server's threads; who asks them is `peers`."""

from typing import Any

from mqworker.http.routing import API, Api, Route


def peers(api: Api) -> Any:
    """Return what is known of the peers."""
    return {"peers": api.control.peers()}


ROUTES = [
    Route("GET", f"{API}/peers", peers, "The services of control.peers, as they report themselves"),
]
