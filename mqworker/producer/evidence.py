"""What a dead Consumer's message is told to have died of: signal or exit code, out of memory or not, stack, output.

Used by the Producer when it judges a death. Pure but for `oom_kills`, which reads a counter of the kernel. Nothing of
it is certain: user code may print what it likes, and the kernel does not say whom it killed.
"""

import re
import signal
from pathlib import Path

from mqworker.ipc.messages import Failure
from mqworker.ipc.spawn import Death

# Ends that faulthandler writes a stack for; it also does when a Consumer is asked for one before it is killed.
FATAL = frozenset({signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL})

_STACK = re.compile(
    r"(?:Fatal Python error: [^\n]*\n+)?(?:"
    r"(?:(?:Current thread|Thread) 0x[0-9a-f]+[^\n]*\(most recent call first\):\n"
    r'|\A[^\n]* in [^\n]*\n(?=  File "[^\n]*, line \d+ in ))'  # so long that what is kept begins within it
    r"(?:  [^\n]*(?:\n|\Z))*\n*)+"
    r"(?:Extension modules: [^\n]*(?:\n|\Z))?"
)


def split_stack(output: str) -> tuple[str, str]:
    """The last stack that faulthandler wrote ("" if there is none), and the output without it."""
    *_, last = [None, *_STACK.finditer(output)]
    return ("", output) if last is None else (last[0].strip(), output[: last.start()] + output[last.end() :])


def oom_kills() -> int:
    """How often the kernel has killed for want of memory: in our control group where it tells, else on the machine."""
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
    raise ValueError(f"{file} does not count them")


def describe(reason: str, death: Death, kill_reason: str, output: str, duration: float, *, oom: bool) -> Failure:
    """The failure of the message in hand; `kill_reason` is why we killed its Consumer, if we did."""
    stack = ""
    if kill_reason or -death.code in FATAL:
        stack, output = split_stack(output)
    how = f"{death}"
    if oom and not kill_reason and death.code == -signal.SIGKILL:
        how += ", out of memory as far as can be told: the kernel killed for it meanwhile"
    words = f"its Consumer was ended: {kill_reason}" if kill_reason else f"its Consumer {how}"
    return Failure(reason, "ConsumerDied", words, stack, f"{how}; after {duration:.3f} s; output:\n{output}")
