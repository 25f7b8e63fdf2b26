"""`mqworker config show`: the configuration as it is understood here, and the live values of a running service."""

import json
from pathlib import Path

import click

from mqworker.cli import output
from mqworker.cli.options import VerbGroup, config_option, load_config
from mqworker.client import Address, CallError, Client

LIVE = "live"  # the origin of a value that was set while the service runs (decisions 28)
ASK = 1.0  # seconds that a running service has to tell its live values


@click.group(cls=VerbGroup)
def config() -> None:
    """Show the configuration."""


@config.command()
@config_option
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(config: Path | None, origin: bool, as_json: bool) -> None:
    """Print every key with its value; secrets are masked.

    What was changed while the service runs is shown as it is now, with the origin `live`.

    Examples:
      mqworker config show
      mqworker config show --origin
      MQWORKER_SERVICE__DRAIN_DEADLINE=60 mqworker config show --origin | grep drain
    """
    from mqworker.config_load import shown  # noqa: PLC0415 - not for --help

    loaded = load_config(config)
    control = loaded.config.control
    rows = {key: (value, whence) for key, value, whence in shown(loaded)}
    rows |= _live(Address(control.host, control.port, str(loaded.socket), control.token))
    if as_json:
        output.data({key: {"value": value, "origin": whence} for key, (value, whence) in rows.items()})
    else:
        width = max(map(len, rows))
        value_width = min(60, max(len(value) for value, _ in rows.values()))
        for key, (value, whence) in rows.items():
            line = f"{key:{width}} = {value:{value_width if origin else 0}}" + (f"  # {whence}" if origin else "")
            click.echo(line)
    for warning in loaded.warnings:
        output.words(f"warning: {warning}")


def _live(address: Address) -> dict[str, tuple[str, str]]:
    """Ask a running service which values differ from its configuration; none when there is no service."""
    try:
        with Client(address, ASK) as client:
            document = client.get("/status")["document"]
    except (CallError, KeyError, TypeError):
        return {}
    rows: dict[str, tuple[str, str]] = {}
    if document.get("configured_log_level"):
        rows["service.log_level"] = (json.dumps(document["log_level"]), LIVE)
    names = {"consumers": "consumers", "soft_limit": "time_limit.soft", "hard_limit": "time_limit.hard"}
    for stage, desired in document["stages"].items():
        for key in desired["configured"]:
            if key == "params":
                rows |= {f"stages.{stage}.params.{n}": (json.dumps(v), LIVE) for n, v in desired["params"].items()}
            elif key in names:
                rows[f"stages.{stage}.{names[key]}"] = (json.dumps(desired[key]), LIVE)
    return rows
