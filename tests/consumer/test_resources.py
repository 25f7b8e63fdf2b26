"""The threads of native libraries: which variables are set."""

import pytest

from mqworker.consumer.resources import BY_OPENMP, NUMEXPR_MAX, OPENMP, OTHERS, thread_variables

ALL = dict.fromkeys((OPENMP, *BY_OPENMP, *OTHERS), "1")


@pytest.mark.parametrize(
    ("asked", "share", "seen", "environ", "variables"),
    [
        pytest.param(None, 1, 8, {}, ALL, id="eight Consumers on eight CPUs: one thread each"),
        pytest.param(None, 0, 2, {}, ALL, id="more Consumers than CPUs: one thread each"),
        pytest.param(None, 8, 8, {}, {}, id="one Consumer on all CPUs keeps its libraries' own numbers"),
        pytest.param(None, 1, 1, {}, {}, id="and so does one on a CPU of its own"),
        pytest.param(None, 2, 64, {}, dict.fromkeys(ALL, "2"), id="a quota, which libraries do not see"),
        pytest.param(0, 1, 8, {}, {}, id="0: nothing"),
        pytest.param(1, 8, 8, {}, ALL, id="configured"),
        pytest.param(2, 1, 1, {}, dict.fromkeys(ALL, "2"), id="configured, and more than there are CPUs"),
        pytest.param(1, 1, 8, ALL, {}, id="all set by the user"),
        pytest.param(
            *(1, 1, 8, {"MKL_NUM_THREADS": "4"}),
            {name: "1" for name in ALL if name != "MKL_NUM_THREADS"},
            id="one set by the user",
        ),
        pytest.param(
            *(None, 1, 8, {OPENMP: "4"}), dict.fromkeys(OTHERS, "1"), id="OpenMP's, by which other libraries go"
        ),
        pytest.param(
            *(32, 1, 64, {}), dict.fromkeys(ALL, "32") | {"NUMEXPR_NUM_THREADS": str(NUMEXPR_MAX)}, id="NumExpr's limit"
        ),
    ],
)
def test_threads_of_native_libraries(asked, share, seen, environ, variables):
    """A Consumer's libraries get its share of the CPUs, or what is configured; what the user has set stays."""
    assert thread_variables(asked, share, seen, environ) == variables
