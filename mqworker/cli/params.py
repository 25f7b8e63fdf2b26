"""`mqworker params get|set|rollback`: a stage's parameters, changed while it runs."""

import json
from typing import Any

import click

from mqworker.cli import output
from mqworker.cli.options import ServiceClient, VerbGroup, asks, at, no_wait

CHANGE = 60.0  # seconds: validating means importing the user's code


@click.group(cls=VerbGroup)
def params() -> None:
    """Show, change and take back a stage's parameters."""


@params.command()
@click.argument("name", required=False)
@asks()
def get(service: ServiceClient, name: str | None) -> None:
    """Print the parameters that are wanted now, or one of them.

    Examples:
      mqworker params get
      mqworker params get inertia --stage energy
    """
    answer = service.client.get(at(service.one_stage(), "/params"))
    if name is not None:
        if name not in answer["params"]:
            known = ", ".join(answer["params"]) or "none: the defaults of the code hold"
            raise click.UsageError(f"Parameter {name} is not set; set are {known}.")
        output.data(answer["params"][name])
    elif service.as_json:
        output.data(answer)
    else:
        for key, value in answer["params"].items():
            click.echo(f"{output.clean(key)} = {json.dumps(value)}")
        if not answer["params"]:
            output.words("none is set: the defaults of the code hold")
        applied = answer["applied_generation"]
        behind = "" if applied in (None, answer["generation"]) else f", the slowest Consumer is at {applied}"
        output.words(f"generation {answer['generation']}{behind}")


@params.command("set")
@click.argument("assignments", nargs=-1, required=True, metavar="NAME=VALUE...")
@no_wait
@asks(CHANGE)
def set_(service: ServiceClient, assignments: tuple[str, ...], no_wait: bool) -> None:
    """Change parameters; the others stay. VALUE is JSON, or a text when it is not; null removes the parameter.

    The user's own code validates them first: a bad value is refused and changes nothing.

    Examples:
      mqworker params set inertia=0.7 particles=80
      mqworker params set 'weights=[0.5, 0.5]' --stage energy
    """
    patch = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{assignment!r} is not NAME=VALUE", param_hint="NAME=VALUE")
        patch[name] = _value(value)
    stage = service.one_stage()
    _tell(service, service.change("PATCH", stage, "/params", patch, wait=not no_wait), no_wait=no_wait)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@params.command()
@no_wait
@asks(CHANGE)
def rollback(service: ServiceClient, no_wait: bool) -> None:
    """Go back to the parameters before the present ones.

    Example:
      mqworker params rollback --stage energy
    """
    answer = service.change("POST", service.one_stage(), "/params/rollback", wait=not no_wait)
    _tell(service, answer, no_wait=no_wait)


def _tell(service: ServiceClient, answer: dict[str, Any], *, no_wait: bool) -> None:
    if service.as_json:
        output.data(answer)
        return
    how = "stored, not waited for" if no_wait else "applied"
    output.words(f"generation {answer['generation']}, {how}: {json.dumps(answer['params'])}")
