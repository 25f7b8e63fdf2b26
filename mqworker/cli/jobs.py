"""`mqworker jobs list`: the chain of a stage."""

import click

from mqworker.cli import output
from mqworker.cli.options import ServiceClient, VerbGroup, stage_path, uses_service


@click.group(cls=VerbGroup)
def jobs() -> None:
    """Show a stage's chain of jobs."""


@jobs.command("list")
@uses_service()
def list_(service: ServiceClient) -> None:
    """Print the jobs in the order in which they run.

    Example:
      mqworker jobs list --stage energy
    """
    answers = {stage: service.client.get(stage_path(stage, "/jobs")) for stage in service.stages()}
    if service.as_json:
        output.data(answers)
        return
    rows = [
        (stage, place, job, answer["generation"])
        for stage, answer in answers.items()
        for place, job in enumerate(answer["jobs"], 1)
    ]
    output.table(("stage", "place", "job", "generation"), rows)
