"""A service that runs a part of the stages: which shared objects it must not have, because others use them too.

Runs on the Service's main loop; changes nothing. The state of a shared object is in one service: where stages of two
services use the same one, each service would have its own, and both would be wrong.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from mqworker.code_check.client import check_code
from mqworker.config.load import Loaded
from mqworker.ipc import logs
from mqworker.ipc.messages import CodeReport, LogEvent, SharedUse

DEADLINE = 60.0  # seconds for the code of stages that do not run here; no change waits longer for it

log = logging.getLogger("mqworker.service.part")


def own_broker(loaded: Loaded) -> list[str]:
    """Return a warning if the other stages cannot have the broker of this service, because nobody has chosen it."""
    if loaded.chosen or not loaded.elsewhere:
        return []
    what = "only a part of the stages runs here, on the embedded broker in the state folder"
    return [f"{what}, which a service with another state folder does not have; set broker.url for both"]


async def used_elsewhere(
    loaded: Loaded, uses: Iterable[SharedUse], on_log: Callable[[LogEvent], None], deadline: float = DEADLINE
) -> dict[str, str]:
    """Return which of these shared objects stages use that run elsewhere: by name, what is wrong, with the fix.

    The code of those stages is imported for it. Where it cannot be within `deadline` seconds, that is logged, and
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
