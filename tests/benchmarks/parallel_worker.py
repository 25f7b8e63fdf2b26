"""What GNU parallel runs for a block of lines: the function of `handlers.burn`, without anything of mqworker.

A program of its own, because parallel starts it for each block, and nobody who has no mqworker would import it.
"""

import json
import sys


def burn(body: dict) -> dict:
    """As `handlers.burn`."""
    total = 0
    for number in range(body["loops"]):
        total += number * number % 7
    return {"id": body["id"], "total": total}


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(burn(json.loads(line))) + "\n")
