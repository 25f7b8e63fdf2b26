"""The exceptions that a handler raises or meets; imported by user code in Consumers, imports nothing."""


class Reject(Exception):  # noqa: N818 - handlers say `raise Reject(...)`: an order, not an error
    """Raised by a handler: this message can never succeed. It goes to the dead letters at once, with the reason."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Retry(Exception):  # noqa: N818 - as above
    """Raised by a handler: try this message again, in `after` seconds, or after the stage's usual backoff (None)."""

    def __init__(self, after: float | None = None, reason: str = "") -> None:
        super().__init__(reason)
        self.after = after
        self.reason = reason


class SoftTimeLimit(Exception):  # noqa: N818 - the configuration's name for it
    """Raised inside a handler that has reached the stage's soft time limit: clean up and raise, or return quickly."""
