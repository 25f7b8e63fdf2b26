"""Certificates for tests: an authority, and a server's certificate that it has signed; as files of one folder."""

import subprocess
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-sha256")


def certificates(folder: Path, name: str) -> None:
    """Make ca.pem, cert.pem and key.pem; `name` is the only one of the server, as `DNS:localhost` or `IP:10.0.0.1`."""
    _openssl(folder, "req", "-x509", *KEY, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Test CA")
    _openssl(folder, "req", *KEY, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=the broker")
    (folder / "names").write_text(f"subjectAltName = {name}\n")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2")
    _openssl(folder, "x509", "-req", "-in", "request.pem", *signed, "-out", "cert.pem")


def tls_lines(folder: Path, address: str) -> tuple[str, ...]:
    """Return the lines of rabbitmq.conf for a listener with them; `address` with its port."""
    files = {"cacertfile": "ca.pem", "certfile": "cert.pem", "keyfile": "key.pem"}
    options = (f"ssl_options.{option} = {folder / file}" for option, file in files.items())
    return f"listeners.ssl.1 = {address}", *options


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)
