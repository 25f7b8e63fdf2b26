"""Where in the line of stages a back-up begins: which stage makes those before it wait, and what it does.

Pure; used by `why`.
"""

from collections.abc import Mapping, Sequence

from mqworker.config.line import Place
from mqworker.control.outlook import outlook
from mqworker.control.views import StageView

SLOWER, ELSEWHERE = "is slower", "runs elsewhere"
_DOES = {  # what the stage does, by what holds it back
    "stopped": "is stopped",
    "paused": "is paused",
    "no consumers": "has no Consumers",
    "broker": "is not connected",
    "crash loop": "is in a crash loop",
    "standby": "stands by",
}


def next_stage(stage: str, line: Sequence[Place]) -> str | None:
    """Return the stage that takes the results of this one; None: none of this configuration does."""
    feeds = next((place.feeds for place in line if place.name == stage), ())
    return feeds[0] if feeds else None


def where_it_begins(
    stage: str, line: Sequence[Place], views: Mapping[str, StageView], *, paused: bool
) -> tuple[str, str]:
    """Return the stage at which a back-up begins, and what it does: follows those whose own output is full."""
    passed = {stage}
    while (view := views.get(stage)) is not None:
        held = outlook(view, paused=paused).held_back_by
        after = next_stage(stage, line)
        if held != "max_backlog" or after is None or after in passed:
            return stage, _DOES.get(held, SLOWER)
        stage = after
        passed.add(stage)
    return stage, ELSEWHERE
