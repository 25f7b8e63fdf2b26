"""Whether a contestant answered every message, and rightly. Pure."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from tests.benchmarks.contestants.jobs import burn

SHOWN = 3  # of what is wrong


class WrongAnswersError(AssertionError):
    """Answers are missing, or answer nothing that was asked, or are wrong."""


class Checked(NamedTuple):
    """Answers that are right and complete."""

    results: list[bytes]  # in the order of the inputs
    repeats: int  # further right answers to what had been answered


def check(job: str, bodies: Sequence[bytes], answers: Sequence[bytes]) -> Checked:
    """Match answers with inputs by the `id` of both; WrongAnswersError unless each input has its right answer."""
    right = {body["id"]: _answer(job, body) for body in map(json.loads, bodies)}
    assert len(right) == len(bodies), "two inputs have the same id"
    found: dict[int, bytes] = {}
    wrong = []
    for answer in answers:
        told = _decoded(answer)
        key = told.get("id") if isinstance(told, dict) else None
        if not isinstance(key, int) or right.get(key) != told:
            wrong.append(answer)
        else:
            found.setdefault(key, answer)
    missing = [key for key in right if key not in found]
    if missing or wrong:
        raise WrongAnswersError(
            f"{len(missing)} of {len(right)} answers are missing (ids {missing[:SHOWN]}), "
            f"{len(wrong)} are made up ({wrong[:SHOWN]})"
        )
    return Checked([found[key] for key in right], len(answers) - len(found))


def _decoded(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except ValueError:
        return None


def _answer(job: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"id": body["id"], "total": _total(body["loops"])} if job == "burn" else body


@cache
def _total(loops: int) -> int:
    return burn({"id": 0, "loops": loops})["total"]
