"""The chain of jobs of a stage, and what an operator can make of it.

Pure; used by the desired state and by the Service's main thread. Each link of a chain has a name, unique in the chain,
by which it is changed. A change that cannot be made raises `ChainError`, which names the field and says why. Programs
are links as jobs are; nobody but the configuration adds one (`service/checked_changes`).
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from mqworker.config.model import JobSpec, Name, ProgramConfig
from mqworker.config.programs import command_of, is_program

Place = Annotated[int, Meta(ge=1, le=1000)]
LinkSpec = Annotated[  # a JobSpec, or a program as text
    str,
    Meta(
        pattern=r"^([^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*|exec:\[.+\])\Z",
        title="`module:name`, or a program that the configuration names",
    ),
]
MOST = 100  # jobs of a chain
LONGEST = 60  # characters of a name without the number appended to it


class ChainLink(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One job of a chain; one that is not enabled is passed over."""

    job: LinkSpec
    name: Name
    enabled: bool = True


class NewChainLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One job of a new chain; without a name it gets that of its function or class."""

    job: LinkSpec
    name: Name | None = None
    enabled: bool = True


class Add(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Put a job into the chain, at a place counted from 1, or at its end."""

    job: JobSpec
    name: Name | None = None
    at: Place | None = None


class Alter(msgspec.Struct, frozen=True):
    """Enable or disable a job, or move it to another place."""

    name: str
    enabled: bool | None = None
    at: Place | None = None


class Remove(msgspec.Struct, frozen=True):
    """Take a job out of the chain."""

    name: str


class Replace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Put another chain in its place."""

    jobs: Annotated[list[LinkSpec | NewChainLink], Meta(max_length=MOST)]


Edit = Add | Alter | Remove | Replace


class ChainError(ValueError):
    """The change cannot be made; `field` is what is wrong about it."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


def links(jobs: Iterable[str | ProgramConfig | NewChainLink]) -> list[ChainLink]:
    """Return a chain of jobs, with names that are free for those that have none; raises ChainError."""
    made: list[ChainLink] = []
    given = [_new(each) for each in jobs]
    taken = {each.name for each in given if each.name is not None}
    used: set[str] = set()
    for each in given:
        name = each.name or _free(each.job, taken)
        if name in used:
            raise ChainError("jobs", f"two jobs have the name {name}")
        used.add(name)
        taken.add(name)
        made.append(ChainLink(each.job, name, each.enabled))
    return made


def _new(job: str | ProgramConfig | NewChainLink) -> NewChainLink:
    if isinstance(job, ProgramConfig):
        return NewChainLink(job.spec, job.name)
    return NewChainLink(job) if isinstance(job, str) else job


def enabled(chain: Iterable[ChainLink]) -> list[str]:
    """Return the jobs that run, in their order."""
    return [link.job for link in chain if link.enabled]


def edited(chain: Sequence[ChainLink], edit: Edit) -> list[ChainLink]:
    """Return the chain after a change; raises ChainError."""
    match edit:
        case Add():
            new = _added(chain, edit)
        case Alter():
            new = _altered(chain, edit)
        case Remove():
            new = [link for link in chain if link is not _find(chain, edit.name)]
        case Replace():
            new = links(edit.jobs)
    if len(new) > MOST:
        raise ChainError("jobs", f"a chain has at most {MOST} jobs")
    if not enabled(new):
        raise ChainError("jobs", "at least one job must stay enabled: to compute nothing, pause or stop the stage")
    return new


def _added(chain: Sequence[ChainLink], edit: Add) -> list[ChainLink]:
    taken = {link.name for link in chain}
    if edit.name in taken:
        raise ChainError("name", f"there is a job with the name {edit.name}: choose another, or remove that one")
    new = ChainLink(edit.job, edit.name or _free(edit.job, taken))
    return _put(chain, new, len(chain) + 1 if edit.at is None else edit.at)


def _altered(chain: Sequence[ChainLink], edit: Alter) -> list[ChainLink]:
    link = _find(chain, edit.name)
    new = link if edit.enabled is None else msgspec.structs.replace(link, enabled=edit.enabled)
    if edit.at is None:
        return [new if each is link else each for each in chain]
    return _put([each for each in chain if each is not link], new, edit.at)


def _put(chain: Sequence[ChainLink], link: ChainLink, at: int) -> list[ChainLink]:
    if at > len(chain) + 1:
        raise ChainError("at", f"there is no place {at}: the last one is {len(chain) + 1}")
    return [*chain[: at - 1], link, *chain[at - 1 :]]


def _find(chain: Sequence[ChainLink], name: str) -> ChainLink:
    for link in chain:
        if link.name == name:
            return link
    known = ", ".join(link.name for link in chain)
    raise ChainError("name", f"there is no job {name!r} in the chain; there is {known}")


def _free(job: str, taken: set[str]) -> str:
    """Return the name of a job's function or class, or of a program's file; with a number appended if it is taken."""
    called = _file_of(job) if is_program(job) else job.partition(":")[2]
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in called)[:LONGEST]
    plain = plain.lstrip("_.-") or "job"
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    return name


def _file_of(program: str) -> str:
    """Return the name of a program's file; "" for a text that is not a program, which is refused later."""
    try:
        return command_of(program)[0].rpartition("/")[2]
    except ValueError:
        return ""
