"""`mqworker config show`: the configuration as loaded here, and the live values of a running service."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mqworker.address import Address, CallError
from mqworker.cli import output
from mqworker.cli.options import VerbGroup, config_option, load_config
from mqworker.client import Client

if TYPE_CHECKING:
    from mqworker.config.load import Loaded

LIVE = "live"  # the origin of a value that was changed while the service was running (decision 28)
TIMEOUT = 1.0  # seconds that a running service has to answer with its live values


@click.group(cls=VerbGroup)
def config() -> None:
    """Show the configuration."""


@config.command()
@config_option
@click.option("--origin", is_flag=True, help="Show where each value comes from.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(config: Path | None, origin: bool, as_json: bool) -> None:
    """Print every key with its value; secrets are masked.

    Values changed while the service is running are shown as they are now, with the origin `live`.

    Examples:
      mqworker config show
      mqworker config show --origin
      MQWORKER_SERVICE__DRAIN_DEADLINE=60 mqworker config show --origin | grep drain
    """
    from mqworker.config.load import display_rows

    loaded = load_config(config)
    rows = {key: (value, source) for key, value, source in display_rows(loaded)} | _live(loaded)
    if as_json:
        output.data({key: {"value": value, "origin": source} for key, (value, source) in rows.items()})
    else:
        width = max(map(len, rows))
        value_width = min(60, max(len(value) for value, _ in rows.values()))
        for key, (value, source) in rows.items():
            line = f"{key:{width}} = {value:{value_width if origin else 0}}" + (f"  # {source}" if origin else "")
            click.echo(line)
    for warning in loaded.warnings:
        output.note(f"warning: {warning}")


def _live(loaded: "Loaded") -> dict[str, tuple[str, str]]:
    """Return what a running service has that is not in its configuration; empty when none is running."""
    control = loaded.config.control
    try:
        with Client(Address(control.host, control.port, str(loaded.socket), control.token), TIMEOUT) as client:
            status = client.get("/status")
    except CallError:
        return {}
    rows = {}
    if status["log_level"] != loaded.config.service.log_level:
        rows["service.log_level"] = (json.dumps(status["log_level"]), LIVE)
    for view in status["stages"]:
        desired, stage = view["desired"], f"stages.{view['name']}"
        values = {
            "consumers": {"consumers": "auto" if desired.get("auto") else desired["consumers"]},
            "soft_limit": {"time_limit.soft": desired["time_limit"]["soft"]},
            "hard_limit": {"time_limit.hard": desired["time_limit"]["hard"]},
            "params": {f"params.{name}": value for name, value in desired["params"].items()},
            "jobs": {"jobs": desired["jobs"]},
        }
        for kind in desired["live"]:
            rows |= {f"{stage}.{key}": (json.dumps(value), LIVE) for key, value in values.get(kind, {}).items()}
        if desired.get("auto"):
            source = LIVE if "consumers" in desired["live"] else loaded.origins.get(f"{stage}.consumers", LIVE)
            rows[f"{stage}.consumers"] = ('"auto"', f"{source}, now {desired['consumers']}")
    return rows
