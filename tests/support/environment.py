"""The environment for a Python program that is not one of ours."""

import os

from mqworker.ipc.spawn import SAFE_PATH


def plain() -> dict[str, str]:
    """Return the environment without what a test has set that started children of ours in this process."""
    return {name: value for name, value in os.environ.items() if name != SAFE_PATH}
