"""Alias of mqworker.watchdog: supervisor files of earlier versions say `python -m mqworker.guard`."""

import sys

from mqworker.watchdog import main

if __name__ == "__main__":
    sys.exit(main())
