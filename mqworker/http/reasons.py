"""Why nothing is happening in a stage: gathers what `control/why` decides from, for the routes and the Feed.

Runs in the server's threads; reads the snapshot and the configuration, and changes nothing.
"""

import time

from mqworker.control.control import Snapshot, StageView
from mqworker.control.why import Why, WhyFacts, why
from mqworker.http.routing import Api


def reason_of(api: Api, snapshot: Snapshot, view: StageView) -> Why:
    """Return why nothing is happening in a stage, or what is."""
    control = api.control
    config = control.loaded.config.stages.get(view.name)
    facts = WhyFacts(
        now=time.monotonic(),
        wall=time.time(),
        paused=snapshot.paused,
        paused_since=snapshot.paused_since,
        paused_by=control.paused_by(view.name),
        line=api.line,
        views=snapshot.stages,
        limit=(config.output.max_backlog or 0) if config is not None and config.output is not None else 0,
    )
    return why(view, facts)
