"""Prints the numbers of meters as JSON Lines: `python generate.py 1000 | mqworker send`."""

import json
import sys

for meter in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1000):
    sys.stdout.write(json.dumps({"meter": meter}) + "\n")
