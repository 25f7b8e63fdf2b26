"""The resources that a Consumer takes of its machine: CPUs, niceness, memory, and the threads of native libraries.

Runs once in the Consumer, before user code is imported, because numpy and similar libraries read their number of
threads at import. Processes that user code starts inherit everything. Raises OSError or ValueError if the machine
refuses; the Consumer reports that like an error in `setup`. `thread_variables` is pure.
"""

import os
import resource
from collections.abc import Mapping

from mqworker.config.model import SLOT, StageConfig
from mqworker.config.processors import usable

OPENMP = "OMP_NUM_THREADS"
BY_OPENMP = (  # without its own variable, each of these libraries uses OpenMP's
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
OTHERS = ("NUMBA_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS")
NUMEXPR_MAX = 8  # its default maximum for a long time; it fails above its own limit of 64


def take(config: StageConfig, slot: int, consumers: int) -> None:
    """Apply the resources that the stage gives to each of its Consumers; `consumers` is their number."""
    if config.cpus:
        try:
            os.sched_setaffinity(0, config.cpus)
        except OSError as error:
            raise OSError(f"the CPUs {[*config.cpus]} of the stage cannot be used: {error.strerror}") from None
    if config.nice:
        os.nice(config.nice)
    if config.memory_limit:
        resource.setrlimit(resource.RLIMIT_AS, (config.memory_limit,) * 2)
    os.environ[SLOT] = str(slot)
    share = usable() // max(1, consumers)
    seen = len(os.sched_getaffinity(0))
    os.environ.update(thread_variables(config.native_threads, share, seen, os.environ))


def thread_variables(asked: int | None, share: int, seen: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to set, except those that are in `environ` already.

    `asked` is the configured number of threads (0: any). Without one, it is the Consumer's `share` of the CPUs; then
    nothing is set if libraries would not use more threads anyway, given the number of CPUs that they have `seen`.
    """
    threads = max(1, share) if asked is None else asked
    if not threads or (asked is None and threads >= seen):
        return {}
    names = OTHERS if OPENMP in environ else (OPENMP, *BY_OPENMP, *OTHERS)
    numbers = dict.fromkeys(names, threads) | {"NUMEXPR_NUM_THREADS": min(threads, NUMEXPR_MAX)}
    return {name: str(numbers[name]) for name in names if name not in environ}
