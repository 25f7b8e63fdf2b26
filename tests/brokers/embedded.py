"""The harness of the embedded broker: a file in the test's own folder."""

from pathlib import Path

from mqworker.brokers.base import DROP
from tests.brokers.harness import Common
from tests.support.waiting import AMPLE


class SqliteHarness(Common):
    """The SQLite broker."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.url = f"sqlite:////{folder}/broker.db".replace("//////", "////").replace("/////", "////")

    async def publish(self, queue: str, properties: bytes, body: bytes) -> None:
        await self.make_admin().send(queue, properties, body, AMPLE)

    async def take(self, queue: str) -> tuple[bytes, bytes] | None:
        taken: list[tuple[bytes, bytes]] = []

        def wanted(properties: bytes, body: bytes) -> str:
            taken.append((properties, body))
            return DROP

        await self.make_admin().move(queue, 1, wanted, AMPLE)
        return taken[0] if taken else None
