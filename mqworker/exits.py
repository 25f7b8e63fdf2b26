"""The exit codes of every `mqworker` verb: the one list that code, documentation and tests refer to."""

from enum import IntEnum


class Exit(IntEnum):
    """What the number that a verb ends with means (the 64 and up follow sysexits.h)."""

    OK = 0  # done, or stopped as asked
    INTERNAL = 1  # a fault of mqworker, or the control port stayed taken
    USAGE = 2  # the command line is wrong
    NOT_RUNNING = 3  # no service answers at the control address
    NO_ANSWER = 4  # the service was reached and did not answer in time
    BROKER_UNREACHABLE = 69  # a one-shot verb could not reach the broker (`run` never ends for that)
    RESTARTS_EXHAUSTED = 70  # the Producer's restart budget is used up: supervisord starts over
    GIVEN_BACK = 75  # the drain deadline passed, or a second TERM came: unfinished work went back to the broker
    REFUSED = 77  # the control API answered 401 or 403
    CONFIG = 78  # the configuration or the user's code cannot run
