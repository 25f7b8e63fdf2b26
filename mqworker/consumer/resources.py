"""What a Consumer takes of its machine: CPUs, niceness, memory, and the threads of native libraries.

Runs once in the Consumer, before user code is imported: numpy and its like read the number of their threads when they
are. What user code starts inherits all of it. Raises OSError or ValueError where the machine refuses; the Consumer
reports that as it does an error in `setup`. `thread_variables` is pure.
"""

import os
import resource
from collections.abc import Mapping

from mqworker.config.model import SLOT, StageConfig
from mqworker.config.processors import usable

OPENMP = "OMP_NUM_THREADS"
BY_OPENMP = (  # without its own variable, each of these libraries goes by OpenMP's
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
OTHERS = ("NUMBA_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS")
NUMEXPR_MAX = 8  # it took no more by itself for long, and fails with more than its own limit of 64


def take(config: StageConfig, slot: int, consumers: int) -> None:
    """Apply the resources that the stage gives to each of its Consumers, of which there are `consumers`."""
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
    """Return the variables to set, none of which is in `environ`.

    `asked` is the configured number of threads (0: any). Without one it is the `share` of the CPUs that one Consumer
    has, and nothing is set if libraries come to no more than that by the CPUs that they have `seen`.
    """
    threads = max(1, share) if asked is None else asked
    if not threads or (asked is None and threads >= seen):
        return {}
    names = OTHERS if OPENMP in environ else (OPENMP, *BY_OPENMP, *OTHERS)
    numbers = dict.fromkeys(names, threads) | {"NUMEXPR_NUM_THREADS": min(threads, NUMEXPR_MAX)}
    return {name: str(numbers[name]) for name in names if name not in environ}
