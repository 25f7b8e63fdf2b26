"""What crosses a process boundary of mqworker: where the records are, what they have in common, and the log event.

    Service   --Order-->          Producer       --Report-->        Service       producer_messages
    Producer  --Chunk-->          Consumer       --Uplink-->        Producer      consumer_messages
    Service   --CheckRequest-->   code check     --CodeReport-->    Service       check_messages
    Service   --AdminRequest-->   broker admin   --AdminAnswer-->   Service       admin_messages
    Service   --SourceOrder-->    source         --SourceReport-->  Service       source_messages
    Service   --SharedOrder-->    shared object  --SharedReport-->  Service       shared_state/messages

Each record is plain data (numbers, text, bytes), frozen: no exception, callable, lock or pika object ever crosses. A
running process receives records only as MessagePack. Only multiprocessing uses pickle, and only from a parent to a
child that it started: for the process object at `spawn` (StageSpec and Desired are among its arguments), and around the
bytes of a Chunk in a lane's queue. Nothing that a child, a broker or an HTTP client sends is ever unpickled, with one
exception: a Consumer loads a message's body that a key of its stage has signed (`jobs/codecs`). Times called `started`
or `since` are CLOCK_MONOTONIC seconds, which all processes of a machine share; durations are in seconds.
"""

from typing import Any

import msgspec


class TaggedRecord(msgspec.Struct, frozen=True, tag=True):
    """A record that carries its name, by which its receiver knows it among others."""


class LogEvent(TaggedRecord, frozen=True, tag="log"):
    """A log event of any process, sent to the Service, which alone writes it."""

    time: float  # wall clock, seconds since the epoch, for display only
    level: int
    event: str  # a fixed name
    msg: str
    process: str
    pid: int
    stage: str = ""
    fields: dict[str, Any] = {}
