"""Somebody else's HTTP server, which takes 50 ms for each answer: `python server.py [PORT]`.

GET /meters/NUMBER answers {"meter": NUMBER, "reading": ...}. A number that ends in 13 is unknown (404); one that ends
in 07 is busy the first time (503). GET /calls tells how many connections it has seen, and how many calls at once.
"""

import asyncio
import json
import sys

WORK = 0.05  # seconds


class Server:
    """Answers requests without a body, over connections that stay open."""

    def __init__(self) -> None:
        self.connections = 0
        self.now = 0
        self.most = 0
        self._busy_once: set[int] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes over one connection."""
        self.connections += 1
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                status, body = await self.answer(request.split(b" ", 2)[1].decode())
                text = json.dumps(body).encode()
                writer.write(b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n%b" % (status, len(text), text))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone
        finally:
            writer.close()

    async def answer(self, path: str) -> tuple[int, object]:
        """Return status and body for a path."""
        if path == "/calls":
            return 200, {"connections": self.connections, "most": self.most}
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(WORK)
        self.now -= 1
        number = int(path.rpartition("/")[2])
        if number % 100 == 13:
            return 404, {"error": f"there is no meter {number}"}
        if number % 100 == 7 and number not in self._busy_once:
            self._busy_once.add(number)
            return 503, {"error": "come back later"}
        return 200, {"meter": number, "reading": number * 7 % 1000}


async def main(port: int) -> None:
    """Serve until Ctrl-C."""
    server = await asyncio.start_server(Server().serve, "127.0.0.1", port)
    sys.stdout.write(f"listening on {server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8181))
