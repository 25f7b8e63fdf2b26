"""mqworker: a service around your algorithm, behind RabbitMQ.

These are the names that the author of a handler or a source needs. Importing the package must stay cheap, because every
process and every verb of the command line does it.
"""

from typing import TYPE_CHECKING, Any

from mqworker.errors import (
    ProgramError,
    Reject,
    Retry,
    SharedCallError,
    SharedUnavailable,
    SharedValueError,
    SoftTimeLimit,
)

if TYPE_CHECKING:
    from mqworker.jobs.item import SourceItem as Item
    from mqworker.jobs.message import Message
    from mqworker.jobs.result import Result

__version__ = "0.1.0"
__all__ = [
    "Item",
    "Message",
    "ProgramError",
    "Reject",
    "Result",
    "Retry",
    "SharedCallError",
    "SharedUnavailable",
    "SharedValueError",
    "SoftTimeLimit",
]


def __getattr__(name: str) -> Any:
    """Import these on first access: they need modules that `--help` does not."""
    if name == "Item":
        from mqworker.jobs.item import SourceItem  # noqa: PLC0415 - lazy on purpose, see above

        return SourceItem
    if name == "Message":
        from mqworker.jobs.message import Message  # noqa: PLC0415 - as above

        return Message
    if name == "Result":
        from mqworker.jobs.result import Result  # noqa: PLC0415 - as above

        return Result
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
