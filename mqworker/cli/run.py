"""`mqworker run`: the service itself, in the foreground. From here on `mqworker.service.main` handles the signals."""

import sys
from pathlib import Path
from typing import Any

import click

from mqworker.cli.options import Verb, config_option, load_config


@click.command(cls=Verb)
@config_option
@click.option("--burst", is_flag=True, help="Stop when the input, the processes and the retry queues are empty.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Overrides the file.")
def run(config: Path | None, burst: bool, log_level: str | None) -> int:
    """Run the service in the foreground; this is what supervisord starts.

    Log lines go to stdout. TERM or Ctrl-C drains: work in hand is finished until the deadline, the rest goes back to
    the broker (exit 0, or 75 when something had to go back). A second signal gives everything back at once.

    Examples:
      mqworker run
      mqworker run --config /etc/mqworker/energy.toml
      mqworker run --burst                            process what is waiting, then stop
      MQWORKER_BROKER__URL=amqp://user@host/ mqworker run
    """
    overrides: dict[str, Any] = {} if log_level is None else {"service.log_level": log_level}
    loaded = load_config(config, overrides)

    from mqworker.service.main import run as serve

    sys.stdout.flush()
    return serve(loaded, burst=burst)
