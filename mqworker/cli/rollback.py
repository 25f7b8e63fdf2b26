"""`mqworker rollback`: back to an earlier generation of a stage, with its jobs, parameters and code."""

import json

import click

from mqworker.cli import output
from mqworker.cli.options import ServiceClient, Verb, no_wait, stage_path, uses_service

CHECK_TIMEOUT = 60.0  # seconds; the code is imported before it is used
SHOWN = 12  # characters of the digest of code


@click.command(cls=Verb)
@click.argument("generation", type=click.IntRange(min=1), required=False)
@click.option("--list", "list_", is_flag=True, help="Print the generations that there are, and change nothing.")
@no_wait
@uses_service(CHECK_TIMEOUT)
def rollback(service: ServiceClient, generation: int | None, list_: bool, no_wait: bool) -> None:
    """Go back to an earlier GENERATION of a stage, or to the one before: jobs, parameters and code together.

    Without GENERATION it takes back a change that is being prepared, if there is one. The earlier code is imported and
    set up first, as for `restart`. It stays until you change something: also after a restart of the service, as long
    as the code in the folder is the same. `mqworker params rollback` goes back to earlier parameters alone.

    Examples:
      mqworker rollback --list
      mqworker rollback
      mqworker rollback 17 --stage energy
    """
    if list_ and generation is not None:
        raise click.UsageError("--list takes no GENERATION: it prints all.")
    stage = service.one_stage()
    if list_:
        _print(service, stage)
        return
    payload = {} if generation is None else {"generation": generation}
    answer = service.change("POST", stage, "/rollback", payload, wait=not no_wait)
    if service.as_json:
        output.data(answer)
    elif answer["changed"] and not answer["applied"]:
        output.note(
            f"{output.clean(stage)}: to be as generation {answer['of']} was; `mqworker status` shows how far it is"
        )
    elif answer["changed"]:
        output.note(f"{output.clean(stage)}: generation {answer['generation']}, as {answer['of']} was (applied)")
    elif answer["taken_back"]:
        what = f"what was being prepared is taken back; generation {answer['generation']} stays"
        output.note(f"{output.clean(stage)}: {what}")
    else:
        output.note(f"{output.clean(stage)}: generation {answer['generation']} is as that one: nothing was changed")


def _print(service: ServiceClient, stage: str) -> None:
    answer = service.client.get(stage_path(stage, "/generations"))
    if service.as_json:
        output.data(answer)
        return
    rows: list[tuple[str, ...]] = []
    for each in answer["generations"]:
        code = (each["code"] or "not kept")[:SHOWN]
        number = f"{each['generation']}" + (f" (as {each['of']})" if each["of"] else "")
        chain = [link["name"] if link["enabled"] else f"({link['name']})" for link in each["chain"] or ()]
        note = "" if rows else "in use"
        if each["undone"]:
            note = f"undone: {output.clean(each['undone'])}"
        rows.append((number, code, ", ".join(chain) or "not kept", json.dumps(each["params"]), note))
    output.table(("generation", "code", "jobs", "parameters", ""), rows)
