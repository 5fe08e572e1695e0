"""Every seam's contract, on every implementation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from check_aggregator import check_aggregator
from check_codec import CodecUnderTest, check_codec
from check_transport import Dial, Listen, check_transport

from fedmq import build
from fedmq.build import AGGREGATORS, LORA_AGGREGATORS
from fedmq.codec import raw
from fedmq.transport.allowed import allow
from fedmq.transport.base import CoordinatorTransport
from fedmq.transport.gateway import GatewayCoordinatorTransport
from fedmq.transport.keys import KeyPair, PublicKey, new_pair
from fedmq.transport.memory import MemoryCoordinatorTransport, MemoryWorkerTransport
from fedmq.transport.zeromq import ZmqCoordinatorTransport, ZmqWorkerTransport


def of_deltas(name: str, lossless: bool = False) -> CodecUnderTest:
    """A codec of deltas, as it is at a client's first update."""
    codec = build.codec(name)
    return CodecUnderTest(lambda tensors: codec.encode(tensors, codec.init(tensors))[0], codec.decode, lossless)


CODECS = {"raw": CodecUnderTest(raw.encode, raw.decode, lossless=True)}
CODECS |= {name: of_deltas(name, lossless=name == "fp32") for name in build.CODECS}
TRANSPORTS: dict[str, tuple[Listen, Dial]] = {
    "memory": (MemoryCoordinatorTransport, MemoryWorkerTransport),  # type: ignore[dict-item]
    "zeromq": (
        lambda: ZmqCoordinatorTransport("tcp://127.0.0.1:0"),
        lambda listener: ZmqWorkerTransport(listener.address),
    ),
    "gateway": (
        lambda: GatewayCoordinatorTransport("tcp://127.0.0.1:0"),
        lambda listener: ZmqWorkerTransport(listener.address),
    ),
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[KeyPair, PublicKey]]:
    """A coordinator's folder, and what a worker that may join was given."""
    folder = tmp_path_factory.mktemp("keys")
    worker, coordinator = new_pair("north", folder / "north"), new_pair("coordinator", folder / "coordinator")
    allow(worker.public, folder / "coordinator")
    return folder / "coordinator", (worker, coordinator.public)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_aggregator(name: str) -> None:
    check_aggregator(AGGREGATORS[name])


# "local" takes no tensor, and so aggregates none.
@pytest.mark.parametrize("name", [name for name in LORA_AGGREGATORS if name != "local"])
def test_lora_aggregator(name: str) -> None:
    check_aggregator(LORA_AGGREGATORS[name])


@pytest.mark.parametrize("name", CODECS)
def test_codec(name: str) -> None:
    check_codec(CODECS[name])


@pytest.mark.parametrize("name", TRANSPORTS)
def test_transport(name: str) -> None:
    check_transport(*TRANSPORTS[name])


@pytest.mark.parametrize("transport", [ZmqCoordinatorTransport, GatewayCoordinatorTransport])
def test_transport_with_keys(
    transport: Callable[[str, Path], CoordinatorTransport], keys: tuple[Path, tuple[KeyPair, PublicKey]]
) -> None:
    check_transport(
        lambda: transport("tcp://127.0.0.1:0", keys[0]),
        lambda listener: ZmqWorkerTransport(listener.address, keys[1]),
    )
