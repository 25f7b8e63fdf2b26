"""The cases, by letter. Each module has LETTERS and `trials(bench)`, and says what is measured and with which goals."""

from types import ModuleType

from tests.benchmarks.bench import Bench
from tests.benchmarks.cases import (
    ab_same,
    c_work,
    d_mixed,
    e_latency,
    f_large,
    g_in_a_row,
    h_memory,
    i_start,
    j_features,
    k_embedded,
    l_growth,
    m_streams,
    n_threads,
    o_programs,
)
from tests.benchmarks.rounds import Trial

MODULES: tuple[ModuleType, ...] = (
    *(ab_same, c_work, d_mixed, e_latency, f_large, g_in_a_row, h_memory, i_start),
    *(j_features, k_embedded, l_growth, m_streams, n_threads, o_programs),
)
LETTERS = "".join(module.LETTERS for module in MODULES)
LETTERS_AGAINST = "abcf"  # what can be compared with a commit
LETTERS_QUICK = "abe"


def trials(bench: Bench, letters: str) -> list[Trial]:
    """Return what is to be measured for these letters; figures that come from the same runs come together."""
    return [trial for module in MODULES if set(module.LETTERS) & set(letters) for trial in module.trials(bench)]


def words() -> str:
    """Return what each case is, for --help."""
    lines = [line for module in MODULES for line in (module.__doc__ or "").strip().splitlines()]
    return "\n".join(line if line.startswith("(") else f"    {line.strip()}" for line in lines)
