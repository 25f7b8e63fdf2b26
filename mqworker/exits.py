"""The exit codes of every `mqworker` verb: the one list that code, documentation and tests use."""

from enum import IntEnum


class Exit(IntEnum):
    """What each exit code means (64 and above follow sysexits.h)."""

    OK = 0  # done, or stopped as asked
    INTERNAL = 1  # a fault in mqworker, or the control port stayed in use; or somebody has said no
    USAGE = 2  # the command line is wrong
    NOT_RUNNING = 3  # no service answers at the control address
    NO_ANSWER = 4  # the service was reached and did not answer in time
    DEAD = 65  # everything is done (`map`, `run --burst`), and dead letters came to be
    BROKER_UNREACHABLE = 69  # a one-shot verb could not reach the broker (`run` never exits for that)
    RESTARTS_EXHAUSTED = 70  # the Producer's restart budget is used up: supervisord starts the service again
    GIVEN_BACK = 75  # unfinished work went back to the broker at the end; or a change gave way to another one
    REFUSED = 77  # the control API answered 401 or 403
    CONFIG = 78  # the configuration or the user's code cannot be used
