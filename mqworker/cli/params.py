"""`mqworker params get|schema|set|rollback`: a stage's parameters, changed while it runs."""

import json
from collections.abc import Iterable
from typing import Any

import click

from mqworker.cli import output
from mqworker.cli.options import ServiceClient, VerbGroup, no_wait, stage_path, uses_service

CHANGE_TIMEOUT = 60.0  # seconds; validation imports the user's code


@click.group(cls=VerbGroup)
def params() -> None:
    """Show, change and roll back a stage's parameters."""


@params.command()
@click.argument("name", required=False)
@uses_service()
def get(service: ServiceClient, name: str | None) -> None:
    """Print the desired parameters, or one of them.

    Examples:
      mqworker params get
      mqworker params get inertia --stage energy
    """
    answer = service.client.get(stage_path(service.one_stage(), "/params"))
    if name is not None:
        if name not in answer["params"]:
            known = ", ".join(answer["params"]) or "none, the code's defaults apply"
            raise click.UsageError(f"Parameter {name} is not set; these are: {known}.")
        output.data(answer["params"][name])
    elif service.as_json:
        output.data(answer)
    else:
        for key, value in answer["params"].items():
            click.echo(f"{output.clean(key)} = {json.dumps(value)}")
        if not answer["params"]:
            output.note("none is set: the code's defaults apply")
        applied = answer["applied_generation"]
        behind = "" if applied in (None, answer["generation"]) else f", the last Consumer is still at {applied}"
        output.note(f"generation {answer['generation']}{behind}")


@params.command()
@uses_service(CHANGE_TIMEOUT)
def schema(service: ServiceClient) -> None:
    """Print what the parameters may be, as JSON Schema, as far as the code's Params says it.

    With --json also the values in use, with the code's defaults filled in.

    Example:
      mqworker params schema --stage energy
    """
    stage = service.one_stage()
    answer = service.client.get(stage_path(stage, "/params/schema"))
    if service.as_json:
        output.data(answer)
    elif answer["schema"] is None:
        output.note(f"{output.clean(stage)}: no job has a Params that says what it takes")
    else:
        output.data(answer["schema"])


@params.command("set")
@click.argument("values", nargs=-1, required=True, metavar="NAME=VALUE...")
@no_wait
@uses_service(CHANGE_TIMEOUT)
def set_(service: ServiceClient, values: tuple[str, ...], no_wait: bool) -> None:
    """Change parameters; the others stay. VALUE is JSON, or else taken as text; null removes the parameter.

    Your own code validates them first: a bad value is refused and changes nothing.

    Examples:
      mqworker params set inertia=0.7 particles=80
      mqworker params set 'weights=[0.5, 0.5]' --stage energy
    """
    patch = assignments(values, "NAME=VALUE")
    stage = service.one_stage()
    _report(service, service.change("PATCH", stage, "/params", patch, wait=not no_wait), no_wait=no_wait)


def assignments(texts: Iterable[str], hint: str) -> dict[str, Any]:
    """Return the merge patch that NAME=VALUE texts stand for; `hint` is where they were given."""
    patch = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=hint)
        patch[name] = _value(value)
    return patch


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@params.command()
@no_wait
@uses_service(CHANGE_TIMEOUT)
def rollback(service: ServiceClient, no_wait: bool) -> None:
    """Go back to the previous parameters.

    Example:
      mqworker params rollback --stage energy
    """
    answer = service.change("POST", service.one_stage(), "/params/rollback", wait=not no_wait)
    _report(service, answer, no_wait=no_wait)


def _report(service: ServiceClient, answer: dict[str, Any], *, no_wait: bool) -> None:
    if service.as_json:
        output.data(answer)
        return
    how = "stored, not yet applied" if no_wait else "applied"
    output.note(f"generation {answer['generation']}, {how}: {json.dumps(answer['params'])}")
