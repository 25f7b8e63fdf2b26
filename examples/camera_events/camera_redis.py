"""The same rule for several machines: its state is in Redis, where one script decides, once for each message.

The script is atomic, so it matters not how many Consumers on how many machines ask at once. It keeps its answer under
the message's id: when a message is computed again, after a crash or a retry, it gets the answer of the first time.
Asked again it would drop the very event that it let through.
"""

import os
from typing import Any

import redis
from camera_events import Event, Params

from mqworker import Message, Reject

__all__ = ["NeighbourRule", "Params"]

KEEP = 86_400  # seconds for which the last event of a camera is kept
ANSWERS = 7 * 86_400  # seconds for which a message is known: later it would be a new one

SCRIPT = """\
-- KEYS: the answer to the message; the last event heard at the camera; the same of the cameras beside it
-- ARGV: time of the event, interval, seconds to keep an event, seconds to keep the answer
local answer = redis.call('GET', KEYS[1])
if answer then
  return tonumber(answer)
end
local time = tonumber(ARGV[1])
local last = redis.call('GET', KEYS[2])
local passes = (not last or time - tonumber(last) >= tonumber(ARGV[2])) and 1 or 0
for place = 2, 4 do
  local heard = redis.call('GET', KEYS[place])
  if not heard or tonumber(heard) < time then
    redis.call('SET', KEYS[place], ARGV[1], 'EX', ARGV[3])
  end
end
redis.call('SET', KEYS[1], passes, 'EX', ARGV[4])
return passes
"""


class NeighbourRule:
    """Drops an event if there was one of this camera, or of one beside it, within the interval."""

    def setup(self) -> None:
        """Connect; REDIS_URL may hold a password, which parameters may not."""
        self.redis: Any = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"))
        self.decide = self.redis.register_script(SCRIPT)

    def handle(self, event: Event, params: Params, message: Message) -> Event | None:
        """Return the event, or None to drop it; an error of Redis is tried again like any other."""
        if not message.message_id:
            raise Reject("an event needs a message_id: by it the rule knows an event that comes again")
        try:
            camera, time = int(event["cid"]), float(event["time"])
        except (KeyError, TypeError, ValueError):
            raise Reject("an event has cid, the number of the camera, and time, in seconds") from None
        # One tag in braces, so that a cluster keeps all of them in one place.
        near = [f"{{cameras}}:heard:{each}" for each in (camera, camera - 1, camera + 1)]
        keys = [f"{{cameras}}:answer:{message.message_id}", *near]
        passes = self.decide(keys=keys, args=[repr(time), params.interval, KEEP, ANSWERS])
        return event if passes else None

    def teardown(self) -> None:
        """Disconnect."""
        self.redis.close()
