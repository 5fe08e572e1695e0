"""Addresses of the ZeroMQ transport: what stays on this machine, and what is refused."""

from __future__ import annotations

import socket

import pytest

from fedmq.errors import ConfigError, RunError
from fedmq.transport.addresses import is_loopback, parse_address, require_secure
from fedmq.transport.listening import listen
from fedmq.transport.zeromq import ZmqCoordinatorTransport, ZmqWorkerTransport


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "LOCALHOST", "[::1]"])
def test_loopback(host: str) -> None:
    assert is_loopback(f"tcp://{host}:5555")
    require_secure(f"tcp://{host}:5555", with_keys=False)


@pytest.mark.parametrize(
    "host",
    [
        *("127.evil.example.com", "127.0.0.1.example.com", "localhost.example.com", "localhostile"),
        *("0.0.0.0", "192.168.0.1", "[::]", "[2001:db8::1]", "127.1"),  # noqa: S104
    ],
)
def test_another_host_is_not_loopback_whatever_its_name_begins_with(host: str) -> None:
    address = f"tcp://{host}:5555"
    for refuses in (ZmqCoordinatorTransport, ZmqWorkerTransport):
        with pytest.raises(ConfigError, match="off loopback only with keys"):
            refuses(address)


@pytest.mark.parametrize("address", ["tcp://[zz]:1", "tcp://[::1:1", "tcp://127.0.0.1", "tcp://127.0.0.1:65536", "x"])
def test_what_is_no_address_is_refused_with_one_that_is(address: str) -> None:
    with pytest.raises(ConfigError, match="expected tcp://HOST:PORT, such as tcp://127.0.0.1:5555"):
        parse_address(address)


def test_a_name_that_leads_nowhere_cannot_be_listened_on_and_the_reason_is_in_words() -> None:
    with pytest.raises(RunError, match="cannot listen on .*; expected an address of this machine") as caught:
        listen("tcp://name.invalid:0")
    assert "nknown error" not in str(caught.value) and "while attempting" not in str(caught.value)


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_ipv6_loopback_carries_messages() -> None:
    listener = ZmqCoordinatorTransport("tcp://[::1]:0")
    dialer = ZmqWorkerTransport(listener.address)
    try:
        assert is_loopback(listener.address) and "[::1]" in listener.address
        while not dialer.send("control", b"hello"):
            dialer.receive(0.01)
        (incoming,) = listener.receive(30.0).messages
        assert incoming.frames == (b"hello",)
    finally:
        dialer.close()
        listener.close()
