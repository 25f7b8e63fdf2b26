"""What a rule reports. Plain data."""

from msgspec import Struct

from mqworker.config.errors import Key


class RuleViolation(Struct, frozen=True):
    """A rule that is broken; {value} in the message stands for the first key's value, masked where needed."""

    keys: tuple[Key, ...]
    message: str
    fix: str = ""
    warning: bool = False
