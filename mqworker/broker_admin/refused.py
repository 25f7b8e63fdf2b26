"""A request that the broker admin itself refuses. Pure; raised by verbs, reported by the process."""


class VerbRefused(Exception):  # noqa: N818 - a refusal, not an error
    """A request that cannot be answered; `kind` is that of a ControlError."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)
