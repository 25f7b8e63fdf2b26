"""A tiny real HTTP server on a unix socket, whose answers a test writes byte for byte."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

Answer = Callable[[bytes], bytes | None]  # head of a request to raw response; None: say nothing, b"": hang up


def response(status: str, body: bytes = b"{}", content_type: str = "application/json", close: bool = False) -> bytes:
    """One whole raw response."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return (head + ("Connection: close\r\n" if close else "") + "\r\n").encode() + body


class TinyServer:
    """Counts its connections and keeps the heads of the requests, and their bodies."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.path = path
        self.connections = 0
        self.requests: list[bytes] = []
        self.bodies: list[bytes] = []
        self._answer = answer
        self._over = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._open: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            data = b""
            while chunk := connection.recv(65536):
                data += chunk
                head, end, body = data.partition(b"\r\n\r\n")
                length = next(
                    (int(row[15:]) for row in head.lower().split(b"\r\n") if row.startswith(b"content-length:")), 0
                )
                if not end or len(body) < length:
                    continue
                data = b""
                self.requests.append(head)
                self.bodies.append(body)
                answer = self._answer(head)
                if answer is None:
                    self._over.wait(60)
                    return
                if not answer:
                    return
                connection.sendall(answer)
                if b"Connection: close" in answer.partition(b"\r\n\r\n")[0]:
                    return

    def hang_up(self) -> None:
        """Close the newest connection without a word."""
        self._open[-1].shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._over.set()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(5)


@contextlib.contextmanager
def tiny_server(path: Path, answer: Answer) -> Iterator[TinyServer]:
    """Serve while the block runs."""
    server = TinyServer(path, answer)
    try:
        yield server
    finally:
        server.close()
