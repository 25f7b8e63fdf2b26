"""The command line: `mqworker VERB`.

Runs in the user's process. This module knows the verbs and imports only the one that is called, so that `--help` and
`status` load nothing else. Every expected failure ends here as one sentence on stderr and an exit code of
`mqworker.exits`; data goes to stdout, everything else to stderr.
"""

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from mqworker.address import CallError
from mqworker.cli.options import Failed
from mqworker.cli.output import clean
from mqworker.exits import Exit
from mqworker.ipc.imports import importing

VERBS = {  # verb: (module below mqworker.cli, what it does)
    "run": ("run", "Run the service in the foreground, as supervisord does."),
    "demo": ("demo", "Show a service at work: embedded broker, a real example, live status."),
    "init": ("init", "Start a project: a job, mqworker.toml and a test."),
    "check": ("check", "Report what would keep the service from running, and the fix."),
    "send": ("send", "Send messages to a stage; with --wait, print the results."),
    "map": ("map", "Compute each line of a file, and write the results in their order."),
    "receive": ("receive", "Take messages out of a queue and print them: results, for example."),
    "status": ("look", "Show the desired and the actual state."),
    "ui": ("ui", "Print the address of the operator's page, with a login."),
    "logs": ("look", "Show the last log lines, or follow the log."),
    "message": ("message", "Show where one message is, by its id."),
    "faults": ("faults", "Show what fails: by reason, error type and place in the code."),
    "stack": ("consumers", "Show where a Consumer is in its code."),
    "replace": ("consumers", "Replace a Consumer by a new one."),
    "log-level": ("steer", "Set what is logged from now on: debug, info, warning or error."),
    "pause": ("steer", "Stop listening; finish what is held."),
    "resume": ("steer", "Listen again."),
    "scale": ("steer", "Set the number of Consumers: N, +N or -N."),
    "start": ("steer", "Start a stage's processes."),
    "stop": ("steer", "Drain a stage and end its processes; the service goes on."),
    "restart": ("steer", "Let new Consumers run the code that is in the folder."),
    "rollback": ("rollback", "Go back to an earlier generation: jobs, parameters and code."),
    "drain": ("steer", "End the service: finish what is in hand, give the rest back."),
    "params": ("params", "Show, change and roll back a stage's parameters."),
    "jobs": ("jobs", "Show and change a stage's chain of jobs."),
    "shared": ("shared", "Show and reset the objects that all Consumers share."),
    "sources": ("sources", "Show, start, stop and run sources: generators and schedules."),
    "queues": ("queues", "Show, purge and delete queues."),
    "held": ("held", "Show and skip failed messages that hold up those behind them."),
    "dlq": ("dlq", "Show, replay, drop and export dead letters."),
    "audit": ("audit", "Show who changed what, from what to what."),
    "operations": ("operations", "Show and cancel operations on many dead letters."),
    "config": ("config", "Show the configuration and where each value comes from."),
    "conf": ("conf", "Print a configuration for supervisord or systemd."),
}


class _Verbs(click.Group):
    """Imports a verb when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's interface
        if cmd_name not in VERBS:
            return None
        with importing():
            module = importlib.import_module(f"mqworker.cli.{VERBS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else " `mqworker --help` lists the verbs."
            ctx.fail(f"There is no verb `{args[0]}`.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        with formatter.section("Verbs"):
            formatter.write_dl([(name, summary) for name, (_, summary) in VERBS.items()])


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"mqworker {version('mqworker')}")
        ctx.exit()


@click.command(
    cls=_Verbs,
    subcommand_metavar="VERB ...",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`mqworker VERB --help` shows examples. Exit codes: 0 done, 1 internal, 2 usage, 3 not running, 4 no answer,"
    " 65 dead letters, 69 broker unreachable, 70 restarts used up, 75 given back, 77 refused, 78 configuration.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version and exit."
)
def cli() -> None:
    """Run a Python algorithm behind RabbitMQ: with backpressure, on all cores, without losing a message.

    Start with `mqworker demo`, which needs no broker, or with `mqworker init NAME`.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    _open_standard_streams()
    try:
        return _main(arguments)
    except BrokenPipeError:  # the reader of stdout has closed it (`| head`): exit quietly, as cat does
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        return 128 + 13
    finally:
        if arguments is None:  # it was this process's own command, and nothing is worth collecting any more
            gc.freeze()


def _open_standard_streams() -> None:
    """Put /dev/null where stdin, stdout or stderr is closed: otherwise the next file that is opened would become it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number, which is this one
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _main(arguments: Sequence[str] | None) -> int:
    try:
        code = cli.main(args=arguments, prog_name="mqworker", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else Exit.OK
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CallError as error:
        lines = str(error).splitlines() or [""]  # the user's traceback, if it is about the user's code
        click.echo("\n".join(["mqworker: " + clean(lines[0]), *map(clean, lines[1:])]), err=True)
        return error.code
    except Failed as error:
        click.echo(f"mqworker: {error}", err=True)
        return error.code
    except (click.Abort, KeyboardInterrupt):
        return 130
