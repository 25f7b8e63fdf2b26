"""`mqworker conf supervisor|systemd`: complete configuration for whoever keeps the service alive, printed to stdout."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mqworker.cli.options import VerbGroup, command, config_option, load_config, stages_option
from mqworker.config.sources import CONFIG_FILE
from mqworker.config.stop_budget import StopBudget

if TYPE_CHECKING:
    from mqworker.config.load import Loaded

SUPERVISOR = """\
; mqworker under supervisord; printed by `mqworker conf supervisor`. Put it into a file that the [include] section of
; supervisord.conf reads (Debian: /etc/supervisor/conf.d/{name}.conf), then:
;   mkdir -p {logs_dir}
;   supervisorctl reread && supervisorctl update && supervisorctl tail -f {name}
{environment}{own}
[program:{name}]
command={command} run{config}{part}
directory={root}
;user=mqworker                 ; an unprivileged user, when supervisord runs as root; it leaves HOME as root's, so also
;environment=HOME="/home/mqworker",USER="mqworker"
autostart=true
autorestart=unexpected         ; crashes are restarted, an end that was asked for is not ...
exitcodes=0,75,78              ; ... nor is a drain past its deadline (75) or a bad configuration (78)
startsecs=1                    ; a bad configuration ends within it, and after a few tries it is FATAL
startretries=3
stopsignal=TERM                ; TERM drains: work in hand is finished, the rest goes back to the broker
stopwaitsecs={stop:<18}; at least 5 s more than service.drain_deadline, which is {drain:g} s
stopasgroup=false              ; TERM to the whole group would end work in hand
killasgroup=true               ; when it has to be killed, nothing is left behind
redirect_stderr=true
stdout_logfile={logs}
stdout_logfile_maxbytes=50MB
stdout_logfile_backups=10

[eventlistener:{name}-watchdog]
command={python} -P -m mqworker.watchdog --program {name}{config}
directory={root}
;user=mqworker
events=TICK_5                  ; asks /livez every 5 s; restarts a service that has not answered several times in a row
autorestart=true
stdout_logfile=NONE            ; its stdout is the protocol of events
stderr_logfile={watchdog_logs}
stderr_logfile_maxbytes=5MB
stderr_logfile_backups=2
"""

SYSTEMD = """\
# mqworker under systemd; printed by `mqworker conf systemd`. As /etc/systemd/system/{name}.service, then:
#   systemctl daemon-reload && systemctl enable --now {name} && journalctl -fu {name}
{environment}{own}
[Unit]
Description=mqworker: {name}
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=exec
ExecStart={command} run{config}{part}
WorkingDirectory={root}
# An unprivileged user that may write {state_dir}:
#User=mqworker
Restart=on-failure
RestartSec=5
# 75: the drain deadline passed and work was given back; 78: the configuration is bad, a restart does not mend it.
SuccessExitStatus=75
RestartPreventExitStatus=78
ExecReload=/bin/kill -HUP $MAINPID
# TERM goes to the service alone, which drains; what is left after that is killed.
KillMode=mixed
KillSignal=SIGTERM
# at least 5 s more than service.drain_deadline, which is {drain:g} s
TimeoutStopSec={stop}
LimitNOFILE=65536
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""


@click.group(cls=VerbGroup)
def conf() -> None:
    """Print a configuration for what keeps the service alive."""


@conf.command()
@config_option
@stages_option
def supervisor(config: Path | None, stages: tuple[str, ...]) -> None:
    """Print the supervisord sections for this configuration: the service and its watchdog.

    With --stage for a service that runs these stages alone.

    Examples:
      mqworker conf supervisor > /etc/supervisor/conf.d/energy.conf
      mqworker conf supervisor --stage decode > /etc/supervisor/conf.d/decode.conf
      supervisorctl reread && supervisorctl update
      supervisorctl tail -f mqworker
    """
    loaded = load_config(config, stages=stages)

    def quoted(path: Path | str) -> str:
        return shlex.quote(str(path)).replace("%", "%%")

    def escaped(path: Path | str) -> str:
        return str(path).replace("%", "%%")

    click.echo(
        SUPERVISOR.format(
            name="-".join((loaded.config.service.name, *stages)),
            part="".join(f" --stage {name}" for name in stages),
            command=" ".join(map(quoted, command())),
            python=quoted(sys.executable),
            config=f" --config {quoted(loaded.path)}" if loaded.path else "",
            root=escaped(loaded.root),
            drain=loaded.config.service.drain_deadline,
            stop=StopBudget(loaded.config.service.drain_deadline).advised,
            logs=escaped(loaded.state_dir / "mqworker.log"),
            logs_dir=shlex.quote(str(loaded.state_dir)),
            watchdog_logs=escaped(loaded.state_dir / "watchdog.log"),
            own=_own(loaded, ";"),
            environment=_environment(loaded, ";", 'environment=NAME="value", with each % of a value doubled'),
        ),
        nl=False,
    )


@conf.command()
@config_option
@stages_option
def systemd(config: Path | None, stages: tuple[str, ...]) -> None:
    """Print a systemd unit for this configuration.

    Example:
      mqworker conf systemd | sudo tee /etc/systemd/system/mqworker.service
    """
    loaded = load_config(config, stages=stages)

    def quoted(path: Path | str) -> str:
        text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
        return f'"{text}"' if " " in text or text != str(path) else text

    click.echo(
        SYSTEMD.format(
            name="-".join((loaded.config.service.name, *stages)),
            part="".join(f" --stage {name}" for name in stages),
            command=" ".join(map(quoted, command())),
            config=f" --config {quoted(loaded.path)}" if loaded.path else "",
            root=str(loaded.root).replace("%", "%%"),
            state_dir=loaded.state_dir,
            drain=loaded.config.service.drain_deadline,
            stop=StopBudget(loaded.config.service.drain_deadline).advised,
            own=_own(loaded, "#"),
            environment=_environment(loaded, "#", 'Environment="NAME=value", with each % of a value doubled'),
        ),
        nl=False,
    )


def _environment(loaded: "Loaded", comment: str, how: str) -> str:
    """Return a comment that names the variables this configuration was read with, never their values, and `how`."""
    names = [name for name in os.environ if name.startswith("MQWORKER_") and name != CONFIG_FILE]
    if not names and loaded.path:
        return ""
    set_here = ", ".join(sorted(names))
    what = f"set here and not in the file: {set_here}" if names else "there is no configuration file"
    return f"{comment} Mind: {what}; the service needs them in its own environment:\n{comment} {how}.\n"


def _own(loaded: "Loaded", comment: str) -> str:
    """Return a comment if a part of the stages has no state folder or port of its own yet; its paths are printed."""
    keys = {"service.state_dir": "MQWORKER_SERVICE__STATE_DIR", "control.port": "MQWORKER_CONTROL__PORT"}
    missing = [name for key, name in keys.items() if not loaded.origins[key].startswith("environment ")]
    if not loaded.elsewhere or not missing:
        return ""
    what = f"beside another service here, this one needs its own {' and '.join(missing)}"
    return f"{comment} Mind: {what};\n{comment} set them also for the command that prints this.\n"
