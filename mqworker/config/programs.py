"""A program among the jobs of a stage, as text: `exec:["./solver","--fast"]`, next to `module:name`.

Pure. Jobs are named by text everywhere: in generations, their history, the state file and HTTP. So a program is text
there too; a `module:name` cannot contain a bracket, which distinguishes the two.
"""

import json
import shlex
from collections.abc import Sequence

PREFIX = "exec:["
LONGEST = 200  # characters of a command in a sentence


def spec_of(command: Sequence[str]) -> str:
    """Return the job that stands for a program with its arguments."""
    return "exec:" + json.dumps(list(command), separators=(",", ":"))


def is_program(job: str) -> bool:
    """Return whether a job is a program."""
    return job.startswith(PREFIX)


def command_of(job: str) -> tuple[str, ...]:
    """Return a program with its arguments; raises ValueError if the job is not a program."""
    command = json.loads(job.partition(":")[2])
    if not (isinstance(command, list) and command and all(isinstance(part, str) and part for part in command)):
        raise ValueError("a program is a list of texts, none of them empty")
    return tuple(command)


def shown(job: str) -> str:
    """Return a job in readable form: a program as one would type it in a shell."""
    if not is_program(job):
        return job
    try:
        line = shlex.join(command_of(job))
    except ValueError:
        return job
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
