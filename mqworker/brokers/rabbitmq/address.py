"""Where RabbitMQ is and how to log in: converts URLs to pika's parameters, and errors to sentences.

Pure. No returned text contains a password.
"""

import ssl
from typing import Any

import pika
import pika.connection

from mqworker.brokers.rabbitmq.amqp_connection import Lost, tls_context
from mqworker.config.model import BrokerConfig
from mqworker.config.urls import amqp_address, redact_url


def parameters(url: str, config: BrokerConfig, name: str) -> Any:
    """Return pika's parameters for a URL; ValueError when something is wrong with it or with the TLS files."""
    address = amqp_address(url)
    tls = config.tls
    options = None
    if address.tls:
        try:
            options = pika.SSLOptions(tls_context(tls.ca, tls.cert, tls.key), address.host)
        except OSError as error:
            raise ValueError(f"a file of [broker.tls] cannot be used: {error}") from None
    return pika.ConnectionParameters(
        host=address.host,
        port=address.port,
        virtual_host=address.virtual_host,
        credentials=pika.PlainCredentials(address.user, address.password),
        heartbeat=config.heartbeat,
        ssl_options=options,
        client_properties={"connection_name": name, "product": "mqworker"},
    )


def explain(error: BaseException, url: str) -> str:
    """Return one sentence that says why a connection could not be made, and what to do."""
    broker = f"the broker at {redact_url(url)}"
    if isinstance(error, Lost) and error.code == 403 and "LOGIN" in str(error).upper():
        return f"{broker} refused the login: correct user or password in broker.url"
    if isinstance(error, Lost) and error.code in {403, 530}:
        return f"{broker} refused the virtual host ({error}): create it, or grant the user access to it"
    if isinstance(error, TimeoutError):
        return f"{broker} did not answer in time: check whether it is overloaded, frozen or behind a firewall"
    if isinstance(error, ssl.SSLError):
        return _explain_tls(error, broker)
    if isinstance(error, OSError):
        return f"{broker} cannot be reached ({error.strerror or error}): start it, or correct broker.url"
    return f"{broker}: {error}"


def _explain_tls(error: ssl.SSLError, broker: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        problem = f"{broker} has a TLS certificate that is not accepted ({error.verify_message})"
        return f"{problem}: correct the host in broker.url, or broker.tls.ca"
    return f"the TLS handshake with {broker} failed ({error}): see [broker.tls]"


def refused(error: BaseException) -> bool:
    """Return whether the broker answered with a refusal, so that trying again soon is useless."""
    return isinstance(error, Lost) and error.code in {403, 530}
