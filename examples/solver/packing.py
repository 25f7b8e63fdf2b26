"""The jobs around the solver: its input from a message, and a result from what it prints."""

import json
from typing import Any

from mqworker import Message, Result


def question(body: dict[str, Any]) -> str:
    """Write a message as the solver reads it."""
    lines = [f"{body['capacity']} {body.get('effort', 'quick')}"]
    lines += [f"{parcel['weight']} {parcel['value']}" for parcel in body["parcels"]]
    return "\n".join([*lines, ""])


def plan(printed: str, message: Message) -> Result:
    """Make the result of the numbers that the solver has printed."""
    body = json.loads(message.body)
    chosen = [body["parcels"][int(number)] for number in printed.split()]
    result = {
        "van": body["van"],
        "parcels": [parcel["name"] for parcel in chosen],
        "weight": sum(parcel["weight"] for parcel in chosen),
        "value": sum(parcel["value"] for parcel in chosen),
    }
    return Result(result, content_type="application/json")
