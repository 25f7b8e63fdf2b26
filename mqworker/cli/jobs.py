"""`mqworker jobs list|add|remove|move|enable|disable|set`: the chain of a stage, changed while it runs."""

from typing import Any
from urllib.parse import quote

import click

from mqworker.cli import output
from mqworker.cli.options import Failed, ServiceClient, VerbGroup, no_wait, stage_path, uses_service
from mqworker.cli.params import assignments
from mqworker.exits import Exit

CHANGE_TIMEOUT = 60.0  # seconds; the jobs are imported before they are used
at = click.option("--at", type=click.IntRange(min=1), metavar="PLACE", help="Its place, counted from 1.")
params = click.option(
    "--set", "params", multiple=True, metavar="NAME=VALUE", help="A parameter that changes with it; null removes it."
)


@click.group(cls=VerbGroup)
def jobs() -> None:
    """Show and change a stage's chain of jobs.

    Each change is checked first: what cannot be imported is refused and changes nothing. It holds until the
    configuration names other jobs; `mqworker rollback` takes it back. Jobs are imported from the code that runs: after
    an edit, `mqworker restart` first. A parameter that only one job needs comes and goes with it, by --set.
    """


@jobs.command("list")
@uses_service()
def list_(service: ServiceClient) -> None:
    """Print the jobs in the order in which they run.

    Example:
      mqworker jobs list --stage energy
    """
    from mqworker.config.programs import shown

    answers = {stage: service.client.get(stage_path(stage, "/jobs")) for stage in service.stages()}
    if service.as_json:
        output.data(answers)
        return
    rows = [
        (stage, place, link["name"], shown(link["job"]), "" if link["enabled"] else "disabled", answer["generation"])
        for stage, answer in answers.items()
        for place, link in enumerate(answer["chain"], 1)
    ]
    output.table(("stage", "place", "name", "job", "", "generation"), rows)
    for stage, answer in answers.items():
        if "next" in answer:
            ahead = answer["next"]
            output.note(f"{output.clean(stage)}: generation {ahead['generation']} is being prepared: {_names(ahead)}")


@jobs.command()
@click.argument("job", metavar="MODULE:NAME")
@click.option("--name", help="How the chain calls it; by default as its function or class.")
@at
@params
@no_wait
@uses_service(CHANGE_TIMEOUT)
def add(
    service: ServiceClient, job: str, name: str | None, at: int | None, params: tuple[str, ...], no_wait: bool
) -> None:
    """Add a job, at its end or at a place.

    Examples:
      mqworker jobs add camera:decode --at 1
      mqworker jobs add camera:blur --name blur-again --set radius=3
    """
    from mqworker.config.programs import is_program

    if is_program(job):
        what = "programs are named only in the configuration, as { exec = [...] } in the jobs of the stage"
        raise Failed(Exit.CONFIG, f"{what}: add it there, and start the service again")
    payload = {key: value for key, value in {"job": job, "name": name, "at": at}.items() if value is not None}
    stage, chain = _look(service)
    _change(service, stage, chain, "POST", "/jobs", payload, params, no_wait=no_wait)


@jobs.command()
@click.argument("name")
@params
@no_wait
@uses_service(CHANGE_TIMEOUT)
def remove(service: ServiceClient, name: str, params: tuple[str, ...], no_wait: bool) -> None:
    """Remove a job.

    Examples:
      mqworker jobs remove blur
      mqworker jobs remove blur --set radius=null
    """
    stage, chain = _look(service)
    left = [link for link in chain["chain"] if link["name"] != name]
    if len(left) == len(chain["chain"]):
        known = ", ".join(link["name"] for link in left)
        raise Failed(Exit.USAGE, f"there is no job {output.clean(name)!r} in the chain; there is {known}")
    _change(service, stage, chain, "PUT", "/jobs", {"jobs": left}, params, no_wait=no_wait)


@jobs.command()
@click.argument("name")
@click.option("--at", type=click.IntRange(min=1), metavar="PLACE", required=True, help="Its new place, from 1.")
@no_wait
@uses_service(CHANGE_TIMEOUT)
def move(service: ServiceClient, name: str, at: int, no_wait: bool) -> None:
    """Move a job to another place.

    Example:
      mqworker jobs move blur --at 1
    """
    stage, chain = _look(service)
    _change(service, stage, chain, "PATCH", _job(name), {"at": at}, (), no_wait=no_wait)


@jobs.command()
@click.argument("name")
@params
@no_wait
@uses_service(CHANGE_TIMEOUT)
def enable(service: ServiceClient, name: str, params: tuple[str, ...], no_wait: bool) -> None:
    """Let a job run again after `disable`.

    Example:
      mqworker jobs enable blur
    """
    stage, chain = _look(service)
    _change(service, stage, chain, "PATCH", _job(name), {"enabled": True}, params, no_wait=no_wait)


@jobs.command()
@click.argument("name")
@params
@no_wait
@uses_service(CHANGE_TIMEOUT)
def disable(service: ServiceClient, name: str, params: tuple[str, ...], no_wait: bool) -> None:
    """Pass a job over; it keeps its place.

    Example:
      mqworker jobs disable blur
    """
    stage, chain = _look(service)
    _change(service, stage, chain, "PATCH", _job(name), {"enabled": False}, params, no_wait=no_wait)


@jobs.command("set")
@click.argument("chain", nargs=-1, required=True, metavar="MODULE:NAME...")
@params
@no_wait
@uses_service(CHANGE_TIMEOUT)
def set_(service: ServiceClient, chain: tuple[str, ...], params: tuple[str, ...], no_wait: bool) -> None:
    """Replace the whole chain.

    Example:
      mqworker jobs set camera:decode camera:detect camera:track
    """
    stage, seen = _look(service)
    _change(service, stage, seen, "PUT", "/jobs", {"jobs": chain}, params, no_wait=no_wait)


def _job(name: str) -> str:
    return f"/jobs/{quote(name, safe='')}"


def _look(service: ServiceClient) -> tuple[str, dict[str, Any]]:
    """Return the stage, and the chain that a change builds on: the one that is being prepared, or the one in use."""
    stage = service.one_stage()
    answer = service.client.get(stage_path(stage, "/jobs"))
    return stage, answer.get("next", answer)


def _names(chain: dict[str, Any]) -> str:
    return ", ".join(link["name"] if link["enabled"] else f"({link['name']})" for link in chain["chain"])


def _change(
    service: ServiceClient,
    stage: str,
    seen: dict[str, Any],
    method: str,
    rest: str,
    payload: dict[str, Any],
    params: tuple[str, ...],
    *,
    no_wait: bool,
) -> None:
    """Change the chain that was seen; if somebody else has changed the stage since, nothing is changed."""
    if params:
        payload["params"] = assignments(params, "--set")
    headers = {"If-Match": f'"{seen["generation"]}"'}
    answer = service.change(method, stage, rest, payload, wait=not no_wait, headers=headers)
    if service.as_json:
        output.data(answer)
    else:
        ahead = answer.get("next", answer)  # it may have been committed since
        if answer["applied"]:
            output.note(f"generation {answer['generation']}, applied: {_names(ahead)}")
        else:
            output.note(f"generation {ahead['generation']}, stored, not yet applied: {_names(ahead)}")
