"""The code check: a short-lived process that looks at the user's code and parameters, reports what is wrong, and ends.

The Service imports no user code; whatever the code does when it is imported (crash, hang, print, exit)
happens here. For the Service, the check first copies the code and looks at the copy: what was checked is what Consumers
run, including those that start after the next edit. Started by the Service and by `mqworker check`. Receives one
CheckRequest; sends one CodeFound and one CodeReport. After that, or at the deadline, its parent kills it.
"""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mqworker.code_check.names import refuse_after, refuse_before
from mqworker.ipc import frames
from mqworker.ipc.check_messages import CheckReport, CheckRequest, CodeFound, CodeReport
from mqworker.ipc.generation import CODE, CodeCopy, SharedUse
from mqworker.ipc.json_safe import text
from mqworker.ipc.spawn import Spawned, be_plain
from mqworker.jobs.code_copy import TooMuchCode, copy_code, digest_of, remove_unneeded
from mqworker.jobs.code_finder import use_code

if TYPE_CHECKING:
    from mqworker.jobs.loading import Job


class CodeCheck(Spawned):
    """See the module head."""

    title = "mqw-check"

    def __init__(self, stage: str) -> None:
        super().__init__(f"{stage}.code-check", stage)

    def main(self) -> None:
        """Look at the code, answer, and end."""
        sys.dont_write_bytecode = True  # a Consumer would read the .pyc and miss an edit of the same second
        request = msgspec.msgpack.decode(frames.read_frame(self.down.fileno()), type=CheckRequest)
        be_plain()
        found = _find(request)
        self._send(found)
        try:
            root, copy = use_code(request.root, found.copy, request.state_dir)
        except FileNotFoundError as error:
            self._send(CodeReport([str(error)], [], {}))
            return
        report = self._look(request, root, copy)
        if report.problems and found.copy is not None and request.copy is None:
            with contextlib.suppress(TooMuchCode, OSError):
                report = msgspec.structs.replace(report, edited=digest_of(root) != found.copy.digest)
        self._send(report)

    def _look(self, request: CheckRequest, root: Path, copy: Path | None) -> CodeReport:
        """Look at the jobs, and at the names that a caller gave both before and after the import."""
        if request.named and sys.path[:1] != [str(root.resolve())]:
            sys.path.insert(0, str(root.resolve()))
        if problems := [each for job in request.named if (each := refuse_before(job, request.allowed, root))]:
            return CodeReport(problems, [], {})
        if request.named:  # also disabled jobs, whose parameters do not count
            report = look(root, copy, request.named, None, request.shared)
            if report.problems:
                return report
        if problems := [each for job in request.named if (each := refuse_after(job))]:
            return CodeReport(problems, [], {})
        report = look(root, copy, request.jobs, json.loads(request.params), request.shared, request.source)
        if request.schema and not report.problems:
            return msgspec.structs.replace(report, schema=params_schema(request, root, copy))
        if request.soft_limit and not report.problems and not request.source:
            problems = soft_limit_problems(request, root, copy)
            report = msgspec.structs.replace(report, problems=problems)
        return report

    def _send(self, record: CheckReport) -> None:
        frames.write_all(self.up.fileno(), frames.pack(msgspec.msgpack.encode(record)))


def _find(request: CheckRequest) -> CodeFound:
    """Return what to look at: the copy that the request names, or one that is made now."""
    if request.copy is not None or not request.state_dir:
        return CodeFound(request.copy)
    folder, store = Path(request.root).resolve(), Path(request.state_dir) / CODE
    try:
        copy = CodeCopy(copy_code(folder, store), str(folder))
    except (TooMuchCode, OSError) as error:
        return CodeFound(
            None,
            f"the code in {text(str(folder))} is not copied ({text(str(error))}): a Consumer that starts after an edit"
            " imports what it finds then, under the number of the present generation",
        )
    remove_unneeded(store, frozenset((copy.digest, *request.needed)))
    return CodeFound(copy)


def look(
    root: Path,
    copy: Path | None,
    jobs: tuple[str, ...],
    params: dict[str, Any] | None,
    shared: dict[str, str] | None = None,
    source: str = "",
) -> CodeReport:
    """Import the jobs in this process, and validate the parameters if there are any; for the rest see CheckRequest."""
    from mqworker.jobs.chain import check_params  # noqa: PLC0415 - only this process may come near user code
    from mqworker.jobs.failures import describe  # noqa: PLC0415 - as above
    from mqworker.jobs.loading import JobLoadError, load_chain, load_source  # noqa: PLC0415 - as above
    from mqworker.jobs.params import ParamsError, to_plain  # noqa: PLC0415 - as above

    try:
        if source:
            chain = [load_source(job, root, copy, scheduled=source == "schedule") for job in jobs]
        else:
            chain = load_chain(jobs, root, copy, shared or {})
        uses = _uses(chain, shared or {}, root, copy)
        if params is None or not jobs:
            return CodeReport([], [], {})
        validated = check_params(chain, params)
    except JobLoadError as error:
        return CodeReport([str(error)], [], {})
    except ParamsError as error:
        return CodeReport([], [(field.field, field.message) for field in error.errors], {})
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001 - user code may raise anything
        what = describe(error)
        return CodeReport([f"{what.type}: {what.message}"], [], {})
    try:
        defaults = json.loads(msgspec.json.encode(to_plain(list(validated.values()))))
    except (TypeError, ValueError, OverflowError):
        defaults = {}
    return CodeReport([], [], defaults, shared=uses)


def params_schema(request: CheckRequest, root: Path, copy: Path | None) -> dict[str, Any] | None:
    """Return the JSON Schema of these jobs' parameters."""
    from mqworker.jobs.chain import params_types  # noqa: PLC0415 - only this process may come near user code
    from mqworker.jobs.loading import load_chain  # noqa: PLC0415 - as above
    from mqworker.jobs.params_schema import schema_of  # noqa: PLC0415 - as above

    return schema_of(params_types(load_chain(request.jobs, root, copy, request.shared)))


def soft_limit_problems(request: CheckRequest, root: Path, copy: Path | None) -> list[str]:
    """Return for which of these jobs a soft limit would have no effect: it cannot interrupt a thread."""
    from mqworker.jobs.chain import kind_of  # noqa: PLC0415 - only this process may come near user code
    from mqworker.jobs.loading import load_chain  # noqa: PLC0415 - as above

    chain = load_chain(request.jobs, root, copy, request.shared)
    if kind_of(chain, request.concurrency) == "serial":
        return []
    plain = [job.spec for job in chain if not job.is_async and job.program is None and not job.shared]
    why = "nothing can interrupt it there"
    fix = "let it ask for `deadline` and heed that, write it as `async def`, or set time_limit.hard instead"
    return [f'time_limit.soft: job "{job}" runs in a thread beside others, and {why}; {fix}' for job in plain]


def _uses(chain: "Sequence[Job]", shared: dict[str, str], root: Path, copy: Path | None) -> tuple[SharedUse, ...]:
    """Return the shared objects that these jobs use; raises JobLoadError if the class of one cannot be used."""
    from mqworker.jobs.loading import JobLoadError  # noqa: PLC0415 - as below
    from mqworker.shared_state.instance import SharedClass  # noqa: PLC0415 - only this process may come near user code

    found = {job.shared: job.spec for job in chain if job.shared}
    found |= {name: shared[name] for job in chain for name in sorted(job.arguments & shared.keys())}
    for name, job in found.items():
        try:
            SharedClass.load(job, root, copy).new()
        except JobLoadError as error:
            key = f"shared.{name}.{error.place}" if name in shared else error.place
            raise JobLoadError(key, error.cause, error.fix, error.detail) from None
    return tuple(SharedUse(name, job) for name, job in found.items())
