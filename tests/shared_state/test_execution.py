"""The call in execution, as another process sees it."""

import os

from mqworker.shared_state.execution import Execution, ExecutionNote, read_execution

MESSAGE, CALL = b"m" * 16, b"c" * 16


def test_others_see_which_call_is_in_execution(tmp_path):
    """From its begin to its end, and after the death of the process that made it."""
    path = tmp_path / "execution"
    assert read_execution(path) is None
    note = ExecutionNote(path)
    assert read_execution(path) is None
    note.begin("detect", MESSAGE, CALL, "handle", 12.5)
    assert read_execution(path) == Execution(12.5, "detect", MESSAGE, CALL, "handle")
    note.end()
    assert read_execution(path) is None
    if (pid := os.fork()) == 0:
        note.begin("s" * 1000, b"", b"", "m\u00e9" * 1000, 13.0)
        os._exit(0)
    os.waitpid(pid, 0)
    left = read_execution(path)
    assert left is not None
    assert left.message == b""
    assert left.stage.startswith("sss")
    assert left.method.startswith("m\u00e9m")


def test_a_new_process_begins_without_one(tmp_path):
    """Whoever wants to know what killed the one before has read it by then."""
    path = tmp_path / "execution"
    ExecutionNote(path).begin("detect", MESSAGE, CALL, "handle", 12.5)
    ExecutionNote(path)
    assert read_execution(path) is None
