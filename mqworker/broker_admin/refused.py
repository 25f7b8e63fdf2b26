"""A request to the broker admin that it refuses by itself. Pure; raised by verbs, reported by the process."""


class VerbRefused(Exception):  # noqa: N818 - nobody is at fault
    """A request that cannot be answered; `kind` as of a ControlError."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)
