"""`mqworker faults`: the failures of each stage, by reason, error type and place in the code."""

import click

from mqworker.cli import output
from mqworker.cli.options import ServiceClient, Verb, stage_path, uses_service

LATELY = 10  # minutes of which the failures are shown apart


@click.command(cls=Verb)
@uses_service()
def faults(service: ServiceClient) -> None:
    """Show what fails: failures by reason, error type and place in the code, the latest kind first.

    Texts do not split a fault, so ids and numbers in them do no harm. Counted since the service started; what a
    killed Producer counted in its last second is missing. The last column of numbers counts the retried and the dead.

    Examples:
      mqworker faults
      mqworker faults --stage energy --json
    """
    found = {stage: service.client.get(stage_path(stage, "/faults")) for stage in service.stages()}
    if service.as_json:
        output.data(found)
        return
    rows = [
        (
            *(stage, fault["reason"], fault["error_type"], fault["place"] or "-"),
            *(fault["retried"], fault["dead"], sum(fault["trend"][-LATELY:])),
            *(fault["first"][11:19], fault["last"][11:19], (fault["examples"] or ["-"])[0], fault["text"][:60]),
        )
        for stage, answer in found.items()
        for fault in answer["faults"]
    ]
    if rows:
        head = ("stage", "reason", "type", "place", "retried", "dead", f"both, last {LATELY} min", "first", "last")
        output.table((*head, "newest message", "newest text"), rows)
    for stage, answer in found.items():
        if answer["other"]:
            output.note(f"{output.clean(stage)}: {answer['other']:,} failures of further kinds")
    if not rows:
        output.note("no failures since the service started")
