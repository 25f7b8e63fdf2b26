"""What an operator asks of the service over HTTP, in `scripts/rounds`: each call waits until it has taken effect."""

import base64
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.rounds.kinds import Message, canonical
from tests.rounds.project import ROWS, TAGS, code
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

SOON = 30.0  # seconds for anything
API = "/api/v1"


class Operator:
    """See the module head."""

    def __init__(self, service: ServiceProcess) -> None:
        self._service = service
        self._tags: dict[str, str] = {}  # digest of code -> its tag
        self.edition = TAGS[0]  # what is in the folder

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Make one call that has to succeed."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        status, told = self._service.ask(method, f"{API}/{path}", body, headers=named)
        assert 200 <= status < 300, (method, path, status, told)
        return told

    def change(self, stage: str, method: str, path: str, body: Any = None) -> None:
        """Change something of a stage."""
        told = self.ask(method, f"stages/{stage}/{path}?wait=30", body)
        if not told["applied"]:  # on a busy machine it may take longer than a request may wait
            wait_for(lambda: self._applied(stage, told["revision"]), SOON, f"{path} of {stage} to be applied")

    def _applied(self, stage: str, revision: int) -> bool:
        view = self._service.stage(stage)
        preparing = view["change"] is not None and view["change"]["state"] == "preparing"
        return not preparing and view["applied"] >= revision

    def edit(self, tag: str) -> None:
        """Write another edition of the code."""
        self._service.write("jobs.py", code(tag))
        self.edition = tag

    def at_work(self, stage: str) -> tuple[tuple[str, ...], int, str]:
        """Return with which jobs, which factor and which edition of the code a stage works."""
        (now, *_) = self.ask("GET", f"stages/{stage}/generations")["generations"]
        tag = self._tags.setdefault(now["code"], self.edition)  # new ones are always those in the folder
        return tuple(now["jobs"]), now["params"]["factor"], tag

    def tag(self, stage: str) -> str:
        """Return which edition a stage works with."""
        return self.at_work(stage)[2]

    def send(self, stage: str, n: int, message: Message) -> None:
        """Send one message."""
        headers = {"Content_Type": message.content_type, "X_Message_Id": f"n-{n}"}
        self.ask("POST", f"stages/{stage}/messages", message.body, **headers)

    def results(self, stage: str, count: int) -> Counter[bytes]:
        """Take so many results; there must be no more."""
        found: Counter[bytes] = Counter()
        taken: list[str] = []

        def take() -> bool:
            told = self.ask("POST", "queues/receive", {"name": f"{stage}.out", "taken": taken})["messages"]
            taken[:] = [each["id"] for each in told]
            found.update(canonical(each["content_type"], base64.b64decode(each["body_base64"])) for each in told)
            return found.total() >= count and not told

        wait_for(take, SOON, f"{count} results of {stage}")
        return found

    def settled(self, stage: str, numbers: Iterable[int]) -> None:
        """Wait until messages that have no results are settled: no longer in the queue, nor with the Producer."""

        def done() -> bool:
            queues = self.ask("GET", "queues")["queues"]
            if any(each["messages"] for each in queues if (each["stage"], each["role"]) == (stage, "input")):
                return False
            found = [self.ask("GET", f"messages?id=n-{n}") for n in numbers]
            return not {"in_hand", "retry"} & {each["state"] for each in found}

        wait_for(done, SOON, f"{stage} to have settled {list(numbers)}")

    def dead(self, stage: str, count: int) -> list[str]:
        """Remove so many dead letters; returns the ids of their messages."""

        def letters() -> list[dict[str, Any]]:
            told: list[dict[str, Any]] = self.ask("GET", f"stages/{stage}/dlq")["dead_letters"]
            return told if len(told) >= count else []

        found = wait_for(letters, SOON, f"{count} dead letters of {stage}") if count else []
        for letter in found:
            self.ask("DELETE", f"stages/{stage}/dlq/{letter['id']}")
        return [letter["message_id"] for letter in found]

    def source(self, name: str, first: int, count: int, *, ends: bool) -> None:
        """Let a source yield numbers; one that does not end by itself is stopped by `stop_source`."""
        self._service.write(ROWS, json.dumps({"first": first, "count": count, "ends": ends}))
        assert self.ask("POST", f"sources/{name}/start?wait=30")["applied"]
        if name == "tick":
            self.ask("POST", f"sources/{name}/run?wait=30")

    def stop_source(self, name: str) -> None:
        """Stop a source."""
        assert self.ask("POST", f"sources/{name}/stop?wait=30")["applied"]
