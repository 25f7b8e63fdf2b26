"""A service that runs only a part of the stages: what it cannot do without the others.

Runs at the start of the Service and on its main loop; changes nothing. If the line is cut, both parts need the same
broker, but the embedded broker of a state folder belongs to one service. The state of a shared object is in one service
too: if stages of two services used the same object, each service would have its own, and both would be wrong.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from mqworker.code_check.client import check_code
from mqworker.config.line import feeds
from mqworker.config.load import Loaded
from mqworker.ipc import logs
from mqworker.ipc.check_messages import CodeReport
from mqworker.ipc.generation import SharedUse
from mqworker.ipc.records import LogEvent

DEADLINE = 60.0  # seconds to check the code of stages that do not run here; no change waits longer for it

log = logging.getLogger("mqworker.service.part")


def cut_line(loaded: Loaded) -> str:
    """Return what is wrong if the line is cut on an embedded broker that only this service has; "" if it is not."""
    if loaded.chosen or not loaded.elsewhere:
        return ""
    here, leads = loaded.config.stages, feeds(loaded.all_stages, embedded=True)
    cuts = ((name, other) for name, to in leads.items() for other in to if (name in here) != (other in here))
    if (cut := next(cuts, None)) is None:
        return ""
    gone = next(name for name in cut if name not in here)
    return (
        f"stage {cut[0]} feeds stage {cut[1]}, and {gone} does not run here: without broker.url the broker is in the"
        " state folder of this service, and no other service can have it; set broker.url for both, to RabbitMQ or to"
        f' one file, such as this one: "{loaded.config.broker.urls[0]}"'
    )


async def used_elsewhere(
    loaded: Loaded, uses: Iterable[SharedUse], on_log: Callable[[LogEvent], None], deadline: float = DEADLINE
) -> dict[str, str]:
    """Return which of these shared objects are used by stages that run elsewhere, each with what is wrong, and the fix.

    The code of those stages is imported for this. If that is not possible within `deadline` seconds, it is logged, and
    they count as using none.
    """
    names = {use.job: use.name for use in uses}
    if not names or not loaded.elsewhere:
        return {}
    reports = await asyncio.gather(*(_look(loaded, stage, on_log, deadline) for stage in loaded.elsewhere))
    wrong: dict[str, str] = {}
    for stage, report in zip(loaded.elsewhere, reports, strict=True):
        if wrong_code := report.problems or [f"params.{field}: {what}" for field, what in report.fields]:
            why = wrong_code[0].partition("\n")[0]
            what = f"stage {stage} does not run here, and it is not known which shared objects it uses: {why}"
            logs.report(log, logging.WARNING, "user_code", what)
        for use in report.shared:
            if name := names.get(use.job):
                what = f"the shared object {name} is also used by stage {stage}, which does not run here: its state is"
                wrong.setdefault(name, f"{what} in one service; run all stages that use it in the same one")
    return wrong


async def _look(loaded: Loaded, stage: str, on_log: Callable[[LogEvent], None], deadline: float) -> CodeReport:
    config = loaded.elsewhere[stage]
    return await check_code(
        *(stage, loaded.root, config.specs, dict(config.params), min(deadline, config.setup_deadline), on_log),
        shared=loaded.config.shared_classes,
    )
