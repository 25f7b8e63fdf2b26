"""A caller of a shared object in a process of its own: runs messages, some several times or not to their end.

`python -m tests.support.shared_caller STATE_DIR PREFIX MESSAGES`; prints how many messages it has finished, and exits
with 1 if a run of a message was answered otherwise than the one before it.
"""

import contextlib
import random
import sys
from pathlib import Path

from mqworker.errors import SharedUnavailable
from mqworker.shared_state.client import Argument, SharedClient
from mqworker.shared_state.identity import message_key

NAME = "tally"


def run(client: SharedClient, name: str, calls: int) -> list[object]:
    """Run one message up to a number of calls, and return their answers; a call that is charged is repeated."""
    key = message_key(name, b"body")
    answers: list[object] = []
    while True:
        answers.clear()
        client.begin(key, has_id=True)
        with contextlib.suppress(SharedUnavailable):
            for number in range(calls):
                if number == 0:
                    answers += [each.result() for each in client.links("tally", [Argument(key, True, {"id": name})])]
                else:
                    answers += [client.call("add", f"{name} {number}"), client.call("sleep", 0.002)]
            return answers


def main() -> None:
    state_dir, prefix, most = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    chance = random.Random(prefix)
    client = SharedClient(state_dir, NAME, "s")
    for done in range(most):
        name = f"{prefix}{done}"
        if chance.random() < 0.3:
            run(client, name, chance.randrange(3))
        answers = run(client, name, 3)
        if chance.random() < 0.3 and run(client, name, 3) != answers:
            sys.exit(1)
    print(most)


if __name__ == "__main__":
    main()
