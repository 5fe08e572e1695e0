"""Addresses: tcp://HOST:PORT, and which of them stay on this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from fedmq.errors import ConfigError


def parse_address(address: str) -> tuple[str, int]:
    """(host, port) of tcp://HOST:PORT; port 0 or * lets the system choose.

    Raises:
      ConfigError: it is something else.

    Example:
      >>> parse_address("tcp://127.0.0.1:5555")
      ('127.0.0.1', 5555)
    """
    try:
        parts = urlsplit(address.replace(":*", ":0"))
        port = parts.port
    except ValueError:
        port = None
    if port is None or parts.scheme != "tcp" or not parts.hostname or parts.path:
        raise ConfigError(f"address {address!r}: expected tcp://HOST:PORT, such as tcp://127.0.0.1:5555")
    return (f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname), port


def is_loopback(address: str) -> bool:
    """Whether the address stays on this machine: a loopback IP address, or localhost.

    Example:
      >>> is_loopback("tcp://127.0.0.1:5555"), is_loopback("tcp://127.0.0.1.example.com:5555")
      (True, False)
    """
    host = parse_address(address)[0]
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def require_secure(address: str, with_keys: bool) -> None:
    """Nothing leaves this machine in the clear, and nobody from outside comes in without a key.

    Raises:
      ConfigError: the address is not on loopback, and there are no keys.
    """
    if not with_keys and not is_loopback(address):
        raise ConfigError(
            f"address {address}: off loopback only with keys: make them with `fedmq keys new`, then give --keys to the "
            "coordinator, --key and --server-key to its workers (docs/two-hosts.md)"
        )
