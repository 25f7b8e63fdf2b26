"""`mqworker run`: the service itself, in the foreground. From here on `mqworker.service.main` handles the signals."""

import sys
from pathlib import Path
from typing import Any

import click

from mqworker.cli.options import Verb, config_option, load_config, stages_option


@click.command(cls=Verb)
@config_option
@click.option("--burst", is_flag=True, help="End when nothing is left to do.")
@stages_option
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Overrides the file.")
def run(config: Path | None, burst: bool, stages: tuple[str, ...], log_level: str | None) -> int:
    """Run the service in the foreground; this is what supervisord starts.

    Log lines go to stdout. TERM or Ctrl-C drains: work in hand is finished until the deadline, the rest goes back to
    the broker (exit 0, or 75 when something had to go back). A second signal gives everything back at once.

    With --burst it ends when nothing is ready, in hand or waiting for its next attempt in any stage: exit 65 if there
    are new dead letters, 70 if only a stage in a crash loop is left, else 0.

    With --stage it runs a part of the stages; another service, here or on another machine, runs the others. On one
    machine each service needs its own service.state_dir and control.port.

    Examples:
      mqworker run
      mqworker run --config /etc/mqworker/energy.toml
      mqworker run --burst                            process what is waiting, then stop
      mqworker run --stage decode --stage detect      only these stages
      MQWORKER_SERVICE__STATE_DIR=.other MQWORKER_CONTROL__PORT=5003 mqworker run --stage store
      MQWORKER_BROKER__URL=amqp://user@host/ mqworker run
    """
    overrides: dict[str, Any] = {} if log_level is None else {"service.log_level": log_level}
    loaded = load_config(config, overrides, stages)

    from mqworker.ipc.imports import importing

    with importing():
        from mqworker.service.main import run as serve

    sys.stdout.flush()
    return serve(loaded, burst=burst)
