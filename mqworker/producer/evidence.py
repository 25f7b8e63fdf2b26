"""Evidence about the death of a Consumer: signal or exit code, whether memory ran out, last stack, last output.

Used by the Producer when it charges a message with a death. Pure but for `oom_kills`, which reads a counter of the
kernel. None of this is certain: user code may print anything, and the kernel does not report which process it killed.
"""

import re
import signal
from collections.abc import Sequence
from pathlib import Path

from mqworker.ipc.consumer_messages import Failure
from mqworker.ipc.spawn import Death
from mqworker.jobs.place import place_in

# Signals at which faulthandler writes a stack; it also does so when a Consumer is asked for one before it is killed.
FATAL = frozenset({signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL})

_STACK = re.compile(
    r"(?:Fatal Python error: [^\n]*\n+)?(?:"
    r"(?:(?:Current thread|Thread) 0x[0-9a-f]+[^\n]*\(most recent call first\):\n"
    r'|\A[^\n]* in [^\n]*\n(?=  File "[^\n]*, line \d+ in ))'  # so long that the kept output begins within it
    r"(?:  [^\n]*(?:\n|\Z))*\n*)+"
    r"(?:Extension modules: [^\n]*(?:\n|\Z))?"
)


def split_stack(output: str) -> tuple[str, str]:
    """Return the last stack that faulthandler wrote ("" if there is none), and the output without it."""
    *_, last = [None, *_STACK.finditer(output)]
    return ("", output) if last is None else (last[0].strip(), output[: last.start()] + output[last.end() :])


def oom_kills() -> int:
    """Return how often the kernel has killed because memory ran out: in our control group, or else on the machine."""
    try:
        group = Path("/proc/self/cgroup").read_text().partition("0::/")[2].partition("\n")[0]
        return _count(Path("/sys/fs/cgroup") / group / "memory.events")
    except (OSError, ValueError):
        pass
    try:
        return _count(Path("/proc/vmstat"))
    except (OSError, ValueError):
        return 0


def _count(file: Path) -> int:
    for line in file.read_text().splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    raise ValueError(f"{file} has no oom_kill")


def describe(
    reason: str,
    death: Death,
    kill_reason: str,
    output: str,
    duration: float,
    *,
    oom: bool,
    stack: str = "",
    folders: Sequence[str] = (),
) -> Failure:
    """Return the failure of the message in hand; `kill_reason` says why we killed its Consumer, if we did.

    `stack`: where the message was, if that is known; otherwise it is looked for in the output. `folders`: where the
    user's code is.
    """
    if not stack and (kill_reason or -death.code in FATAL):
        stack, output = split_stack(output)
    how = f"{death}"
    if oom and not kill_reason and death.code == -signal.SIGKILL:
        how += ", probably out of memory: the kernel killed a process for that meanwhile"
    message = f"its Consumer was ended: {kill_reason}" if kill_reason else f"its Consumer {how}"
    place = place_in(stack, folders, interrupted=bool(kill_reason)) or ("" if kill_reason else _ending(death))
    exit_ = f"{how}; after {duration:.3f} s; output:\n{output}"
    return Failure(reason, "ConsumerDied", message, stack, exit_, place=place)


def _ending(death: Death) -> str:
    """Return how a Consumer ended that has left no stack, in place of a place in the code."""
    if death.code >= 0:
        return f"exit code {death.code}"
    try:
        return signal.Signals(-death.code).name
    except ValueError:
        return f"signal {-death.code}"
