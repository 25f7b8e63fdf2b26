"""Why nothing is happening in a stage: gathers what `control/why` decides from, for the routes and the Feed.

Runs in the server's threads, and once a second on the main one, so that it is known since when a stage has had its
answer; reads the snapshot and the configuration. Imports no Flask, because the server starts without it.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from mqworker.config.line import Place
from mqworker.control.control import Control
from mqworker.control.views import Snapshot, StageView
from mqworker.control.why import Why, WhyFacts, why

if TYPE_CHECKING:
    from mqworker.http.routing import Api


def reason_of(api: "Api", snapshot: Snapshot, view: StageView) -> Why:
    """Return why nothing is happening in a stage, or what is."""
    answer = _reason(api.control, api.line, snapshot, view)
    if answer.since is not None:
        return answer
    return msgspec.structs.replace(answer, since=api.control.why_since.since(view.name, answer.code))


def note_reasons(control: Control, line: Sequence[Place], snapshot: Snapshot) -> None:
    """Remember since when each stage has had its answer."""
    for view in snapshot.stages.values():
        control.why_since.note(view.name, _reason(control, line, snapshot, view).code, time.time())


def _reason(control: Control, line: Sequence[Place], snapshot: Snapshot, view: StageView) -> Why:
    config = control.loaded.config.stages.get(view.name)
    facts = WhyFacts(
        now=time.monotonic(),
        wall=time.time(),
        paused=snapshot.paused,
        paused_since=snapshot.paused_since,
        paused_by=control.paused_by(view.name),
        line=line,
        views=snapshot.stages,
        limit=(config.output.max_backlog or 0) if config is not None and config.output is not None else 0,
    )
    return why(view, facts)
