"""A real nginx before a service: one process, as this user, in a folder of its own, with TLS when asked for."""

import http.client
import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.support.ports import free_port
from tests.support.waiting import wait_for

BINARY = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
PUBLIC = "mq.example.org"  # the name that its callers use

CONFIG = """\
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {http}
  server {{
    listen 127.0.0.1:{port};
    server_name {name};
    {server}
  }}
  server {{
    listen 127.0.0.1:{tls} ssl;
    server_name {name};
    ssl_certificate {folder}/cert.pem;
    ssl_certificate_key {folder}/key.pem;
    {server}
  }}
}}
"""


class Nginx:
    """See the module head; `server` are directives of its server, `http` of what is around it."""

    def __init__(self, server: str, http: str = "") -> None:
        assert BINARY is not None
        self.folder = Path(tempfile.mkdtemp(prefix="mqw-nginx-"))
        self.port, self.tls = free_port(), free_port()
        make = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={PUBLIC}")
        where = ("-keyout", self.folder / "key.pem", "-out", self.folder / "cert.pem")
        subprocess.run([*make, *where], check=True, capture_output=True, timeout=60)
        (self.folder / "nginx.conf").write_text(
            CONFIG.format(folder=self.folder, port=self.port, tls=self.tls, name=PUBLIC, server=server, http=http)
        )
        self._process = subprocess.Popen(
            [BINARY, "-p", self.folder, "-e", self.folder / "error.log", "-c", self.folder / "nginx.conf"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for((self.folder / "pid").exists, 30, "nginx to listen")

    def connect(self, timeout: float = 60, *, tls: bool = False) -> http.client.HTTPConnection:
        """Return a connection of a caller, who need not have opened it yet."""
        if tls:
            context = ssl.create_default_context(cafile=str(self.folder / "cert.pem"))
            context.check_hostname = False  # the name is not ours to resolve
            return http.client.HTTPSConnection("127.0.0.1", self.tls, timeout=timeout, context=context)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(
        self, method: str, path: str, body: bytes | None = None, *, tls: bool = False, **headers: str
    ) -> tuple[int, str]:
        """Send one request under the public name; header names have `_` for `-`. Returns the status and the text."""
        named = {"Host": PUBLIC} | {name.replace("_", "-"): value for name, value in headers.items()}
        connection = self.connect(tls=tls)
        try:
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def close(self) -> None:
        """End it, with its folder."""
        self._process.terminate()
        self._process.wait(20)
        shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
