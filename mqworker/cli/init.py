"""`mqworker init NAME`: a project to start from, copied from the package's template."""

from importlib import resources
from pathlib import Path

import click

from mqworker.cli import output
from mqworker.cli.options import Failed, Verb, shell_command
from mqworker.exits import Exit


@click.command(cls=Verb)
@click.argument("name", type=click.Path(path_type=Path))
def init(name: Path) -> None:
    """Create a folder NAME with a job, its configuration and its test. Overwrites nothing.

    Example:
      mqworker init primes
    """
    if name.exists() and (not name.is_dir() or any(name.iterdir())):
        raise Failed(Exit.USAGE, f"{name} already exists; choose another name, or remove it")
    template = resources.files("mqworker.cli") / "templates" / "primes"
    try:
        name.mkdir(parents=True, exist_ok=True)
        for source in template.iterdir():
            if source.is_file():
                with (name / source.name).open("xb") as file:
                    file.write(source.read_bytes())
    except OSError as error:
        raise Failed(Exit.USAGE, f"{error.filename} cannot be written: {error.strerror}") from None
    output.note(f"{name}/ has a job (primes.py), its configuration (mqworker.toml) and a test.\n\nNext:\n")
    mqworker = shell_command()
    for command in (
        f"cd {name} && {mqworker} check",
        f"{mqworker} run",
        f"{mqworker} send '{{\"n\": 1000000}}' --wait",
    ):
        click.echo(f"  {command}")
    output.note("\nRun `send` in a second terminal, in the same folder.")
