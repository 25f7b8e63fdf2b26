"""`mqworker map`: computes each line of a file, and writes the results in their order."""

import json
import os
import shlex
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mqworker.cli import output
from mqworker.cli.options import Failed, Verb, config_option, load_config, shell_command
from mqworker.exits import Exit

if TYPE_CHECKING:
    from mqworker.mapping.run import MapResult
    from mqworker.mapping.work import MapStage

PIPE = "-"
SUCH_PARAMS = "it must be an object, such as '{\"iterations\": 800}'"


@click.command(cls=Verb)
@click.argument("job")
@click.option("--input", "-i", "source", required=True, metavar="IN", help="A file, also gzip, or - for stdin.")
@click.option("--output", "-o", "target", required=True, metavar="OUT", help="A file, also .gz, or - for stdout.")
@click.option(
    "--dead",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where lines that failed for good go.  [default: OUT.dead]",
)
@click.option("--resume", is_flag=True, help="Go on with an unfinished run of OUT, if there is one.")
@click.option("--text", is_flag=True, help="Lines and results are text, not JSON.")
@click.option("--params", metavar="JSON", help="Parameters of the job, as an object.")
@click.option("--consumers", "-n", type=click.IntRange(1, 1024), metavar="N", help="Processes.  [default: one a CPU]")
@config_option
def map(  # noqa: A001 - the name of the verb
    job: str,
    source: str,
    target: str,
    dead: Path | None,
    resume: bool,
    text: bool,
    params: str | None,
    consumers: int | None,
    config: Path | None,
) -> NoReturn:
    """Compute each line of IN with JOB on all CPUs, and write the results to OUT, in the order of the lines.

    JOB is `module:name`, or the name of a stage in mqworker.toml, with its jobs, parameters, limits and retries. Lines
    are JSON. What fails is tried again, and in the end written to OUT.dead, one JSON object each. No broker is needed.

    OUT appears when all is done. A run that was stopped or killed goes on with --resume where it was; each line is in
    the output once. Exits with 65 if there are dead letters.

    Examples:
      mqworker map primes:largest -i numbers.jsonl -o primes.jsonl
      mqworker map primes:largest -i numbers.jsonl.gz -o primes.jsonl.gz --resume
      mqworker map energy -i requests.jsonl -o plans.jsonl --params '{"iterations": 800}'
      zcat access.log.gz | mqworker map --text logs:parse -i - -o - --dead bad.jsonl | sort
    """
    from mqworker.mapping.files import MapFiles
    from mqworker.mapping.run import run
    from mqworker.mapping.work import MapError, adapted
    from mqworker.service.instance import StartError

    try:
        stage = adapted(_stage(job, config), _params(params), consumers, text=text)
        fd, size = _open(source)
        out = None if target == PIPE else Path(target)
        letters = _dead(dead, out)
        written = [path for path in (out, letters) if path is not None]
        _must_have_folders(*written)
        _must_differ(fd, *written)
        files = MapFiles(out, letters, stage.work, resumable=size is not None)
    except MapError as error:
        raise Failed(error.code, str(error)) from None
    screen = _screen(size)
    code = int(Exit.INTERNAL)
    try:
        files.claim(resume=resume)
        if files.state.complete:
            files.finish()
            output.note(f"that run was done: {_summary(files.state)}")
            code = Exit.DEAD if files.state.dead else Exit.OK
        else:
            result = run(stage, files, fd, screen)
            screen.close()
            code = result.code
            _report(result, resumable=files.resumable and result.goes_on)
    except (MapError, StartError) as error:
        screen.close()
        output.note("\n".join(output.clean(line) for line in f"mqworker: {error}".splitlines()))
        code = error.code
    except OSError as error:
        screen.close()
        output.note(f"mqworker: {error.filename or target}: {error.strerror}")
    finally:
        files.leave()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an ordinary exit would wait for a thread that reads from a pipe


def _stage(job: str, config: Path | None) -> "MapStage":
    from mqworker.mapping.work import of_job, of_stage

    if ":" not in job:
        return of_stage(job, load_config(config, secrets=False))
    if config is not None:
        raise click.UsageError("--config is of use only if JOB is the name of a stage.")
    return of_job(job, Path.cwd())


def _params(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        params = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"it is not JSON ({error}); {SUCH_PARAMS}", param_hint="--params") from None
    if not isinstance(params, dict):
        raise click.BadParameter(SUCH_PARAMS, param_hint="--params")
    return params


def _open(source: str) -> tuple[int, int | None]:
    """Return the input's descriptor, and its size if it is a file."""
    try:
        fd = 0 if source == PIPE else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(fd)
    except OSError as error:
        raise Failed(Exit.INTERNAL, f"{source}: {error.strerror}") from None
    if stat.S_ISDIR(status.st_mode):
        raise Failed(Exit.INTERNAL, f"{source} is a folder")
    return fd, status.st_size if source != PIPE and stat.S_ISREG(status.st_mode) else None


def _dead(dead: Path | None, out: Path | None) -> Path:
    if dead is not None:
        return dead
    if out is None or (out.exists() and not out.is_file()):
        raise click.UsageError("If the output is not a file, --dead must say where to put lines that fail for good.")
    return out.with_name(f"{out.name}.dead")


def _must_have_folders(*paths: Path) -> None:
    for path in paths:
        if not path.absolute().parent.is_dir():
            raise Failed(Exit.INTERNAL, f"{path}: there is no folder {path.parent}; make it first")


def _must_differ(fd: int, *paths: Path) -> None:
    """Make sure that no file is read and written, or written twice."""
    found = [os.fstat(fd)]
    for path in paths:
        if path.is_file():
            status = path.stat()
            if any(os.path.samestat(status, other) for other in found):
                raise click.UsageError(f"{path} is named twice, for what is read and what is written.")
            found.append(status)
    if len({path.absolute() for path in paths}) < len(paths):
        raise click.UsageError(f"{paths[0]} is named for the results and for the dead letters.")


def _screen(size: int | None) -> Any:
    from mqworker.cli.map_screen import Screen

    return Screen(size)


def _summary(state: Any) -> str:
    dead = f", {state.dead:,} dead letters in {state.dead_file}" if state.dead else ""
    return f"{state.place.line:,} lines, {state.results:,} results{dead}"


def _report(result: "MapResult", *, resumable: bool) -> None:
    """Print how it ended, and the command that resumes it."""
    if result.message:
        output.note("mqworker: " + output.clean(result.message))
    if result.finished:
        output.note(_summary(result.state))
        return
    output.note(f"unfinished: {_summary(result.state)}")
    if resumable:
        arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
        output.note(f"to go on: {shell_command()} {shlex.join([*arguments, '--resume'])}")
