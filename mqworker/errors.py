"""The exceptions that a handler raises or receives, and those by which a program fails its message.

Imported by user code in Consumers; imports nothing.
"""


class Reject(Exception):  # noqa: N818 - `raise Reject(...)` is an instruction, not an error
    """Raised by a handler: this message can never succeed. It is dead-lettered at once, with the reason."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Retry(Exception):  # noqa: N818 - as above
    """Raised by a handler: try this message again after `after` seconds, or after the stage's usual backoff (None)."""

    def __init__(self, after: float | None = None, reason: str = "") -> None:
        super().__init__(reason)
        self.after = after
        self.reason = reason


class SoftTimeLimit(Exception):  # noqa: N818 - named as in the configuration
    """Raised inside a handler that reached the stage's soft time limit: clean up and raise, or return quickly.

    It is raised wherever the handler is, also inside a library that is just taking a lock in Python code, which may
    then stay locked. Set a hard limit too: it ends what hangs, and the Consumer with it.
    """


class SharedValueError(TypeError):
    """Raised in a handler: an argument or answer of a shared object's call would not arrive as it is."""


class SharedCallError(Exception):
    """Raised in a handler: its call of a shared object has failed; the traceback from there is a note of this one."""

    def __init__(self, type: str, message: str, traceback: str = "", call: str = "") -> None:  # noqa: A002 - its name
        super().__init__((f"{call} raised " if call else "") + (f"{type}: {message}" if message else type))
        self.type = type  # of the exception there, "ValueError" or "module.Type"
        self.message = message
        self.traceback = traceback
        if traceback:
            self.add_note(traceback)


class SharedUnavailable(Exception):  # noqa: N818 - a fact about the shared object, not about the call
    """Raised in a handler: a shared object has not answered in time. The call may have its effect later, once."""


class ProgramError(Exception):
    """A program of the chain has failed; its note has the last of what it wrote to stderr."""


class HardTimeLimit(Exception):  # noqa: N818 - named as in the configuration
    """A program of the chain was killed at the stage's hard time limit."""
