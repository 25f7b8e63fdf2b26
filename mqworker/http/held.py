"""Routes for held messages: failed ones that wait in their places, in a stage that keeps an order.

Runs in the server's threads. Each asks the stage's Producer, through Control.
"""

from typing import Any

import msgspec

from mqworker.http.routing import API, Api, Route


def listed(api: Api, stage: str) -> Any:
    """Return the oldest held messages, and how many there are."""
    name = api.stage(stage).name
    held = api.control.ask(lambda operator: operator.ask_held(name, skip=""))
    return {"held": msgspec.to_builtins(held.messages), "total": held.total}


def skip(api: Api, stage: str, message: str) -> Any:
    """Let a held message go: it becomes a dead letter."""
    name = api.stage(stage).name
    api.control.ask(lambda operator: operator.ask_held(name, skip=message))
    return {"skipped": message}


_HELD = f"{API}/stages/<stage>/held"
ROUTES = [
    Route("GET", _HELD, listed, "Failed messages that wait in their places, the oldest 20"),
    Route("POST", f"{_HELD}/<path:message>/skip", skip, "Let one of them go: a dead letter with the reason skipped"),
]
