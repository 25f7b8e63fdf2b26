"""What the processes of a stage are started with.

    Service  --StageSpec-->  Producer  --StageSpec-->  Consumer

It crosses by pickle, in the process object (`records` says what does).
"""

import msgspec

from mqworker.config.model import BrokerConfig, StageConfig
from mqworker.ipc.records import TaggedRecord


class StageSpec(TaggedRecord, frozen=True):
    """What a Producer and its Consumers are started with; it never changes during their lives."""

    service: str
    stage: str
    config: StageConfig
    broker: BrokerConfig
    root: str  # the folder of the configuration and of the user's code
    state_dir: str
    drain_deadline: float  # seconds for work in hand when the Producer itself gets a TERM
    shared: dict[str, str] = msgspec.field(default_factory=dict)  # the classes of the shared objects that have a name
