"""Reads a meter over HTTP for each message. Each process makes its client once, and calls wait beside each other."""

import asyncio
import json
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mqworker import Reject, Retry

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Params:
    """Where the meters are."""

    url: str = "http://127.0.0.1:8181"


class Client:
    """A small HTTP client whose connections stay open; yours is probably `httpx.AsyncClient` or `aiohttp`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.idle: deque[Connection] = deque()

    async def get(self, path: str) -> tuple[int, Any]:
        """Return status and decoded body; raises OSError or EOFError if the server does not answer."""
        while self.idle:
            connection = self.idle.pop()
            try:
                return await self._ask(connection, path)
            except (OSError, EOFError):
                continue  # the server has closed it meanwhile
        return await self._ask(await asyncio.open_connection(self.host, self.port), path)

    async def _ask(self, connection: Connection, path: str) -> tuple[int, Any]:
        reader, writer = connection
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode())
            status, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in lines if line)
            body = await reader.readexactly(int(headers[b"content-length"]))
        except BaseException:  # also a cancellation: an answer may still come, and must not be that of the next call
            writer.close()
            raise
        self.idle.append(connection)
        return int(status.split(b" ")[1]), json.loads(body)

    def close(self) -> None:
        """Close all connections."""
        while self.idle:
            self.idle.pop()[1].close()


class Call:
    """Asks the server for the meter that a message names."""

    async def setup(self, params: Params) -> None:
        """Make the client, once a process; all messages share it."""
        self.client = Client(params.url)

    async def handle(self, body: dict[str, int], log: logging.Logger, deadline: float | None) -> dict[str, Any]:
        """Return the reading."""
        try:
            status, answer = await self.client.get(f"/meters/{body['meter']}")
        except (OSError, EOFError) as error:
            raise Retry(after=1, reason=f"the server does not answer: {error}") from None
        if status == 503:  # busy
            left = "" if deadline is None else f", {deadline - time.monotonic():.1f} s left"
            log.info("the server is busy%s: tried again in a second", left)
            raise Retry(after=1, reason=answer["error"])
        if status == 404:
            raise Reject(answer["error"])
        return {"meter": answer["meter"], "reading": answer["reading"]}

    async def teardown(self) -> None:
        """Close the client."""
        self.client.close()
