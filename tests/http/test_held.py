"""Routes for held messages."""

from urllib.parse import quote

import pytest

from mqworker.ipc.producer_messages import HeldMessage

HELD = "/api/v1/stages/alpha/held"
MESSAGE = HeldMessage("a/b//ä?", "camera-1", 2, 1.5, 3, "ValueError", "no such frame")


def test_held_messages_are_listed_and_let_go(service):
    """An id is whatever the publisher has chosen, with slashes too; the same one is not let go twice."""
    service.held.append(MESSAGE)
    assert service.ask("GET", HELD).json == {
        "held": [
            {
                "message_id": "a/b//ä?",
                "key": "camera-1",
                "attempt": 2,
                "seconds": 1.5,
                "behind": 3,
                "error_type": "ValueError",
                "error": "no such frame",
            }
        ],
        "total": 1,
    }
    path = f"{HELD}/{quote(MESSAGE.message_id, safe='')}/skip"
    answer = service.ask("POST", path)
    assert (answer.status, answer.json) == (200, {"skipped": "a/b//ä?"})
    assert service.ask("GET", HELD).json == {"held": [], "total": 0}
    again = service.ask("POST", path)
    assert (again.status, again.json["kind"]) == (404, "unknown_message")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", f"{HELD}/1/skip", 409),
        ("GET", f"{HELD}/1/skip", 405),
        ("GET", "/api/v1/stages/gamma/held", 404),
        ("POST", "/api/v1/stages/gamma/held/1/skip", 404),
    ],
)
def test_what_is_refused(service, method, path, status):
    """A message that runs is not let go, by a reader neither; an unknown stage is named."""
    service.held_refused = "message 1 is being computed"
    answer = service.ask(method, path)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
