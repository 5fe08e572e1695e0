"""Coordinator and workers started by hand, in any order, with any division of work: one result."""

from __future__ import annotations

import itertools
import resource

import pytest
import zmq
from conftest import Federation
from running import FEDMQ, PATIENCE_S, wait_accepted

from fedmq.protocol import messages as m
from fedmq.protocol.frames import Codec

THREE = {"num_clients": 3, "clients_per_round": 3, "num_rounds": 2}
CLIENTS = ["client_0", "client_1", "client_2"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest that one worker with all clients comes to."""
    federation = Federation(tmp_path_factory.mktemp("one_worker"))
    try:
        coordinator = federation.coordinator(federation.config(federated=THREE))
        worker = federation.noop_worker(coordinator.address, "w0", clients=CLIENTS)
        digest = coordinator.ended_well()
        assert worker.end() == 0
        return digest
    finally:
        federation.end()


def test_workers_before_and_after_the_coordinator(federation: Federation, free_port: int, expected: str) -> None:
    address = f"tcp://127.0.0.1:{free_port}"
    early = federation.noop_worker(address, "early", clients=CLIENTS[:2])
    coordinator = federation.coordinator(federation.config(federated=THREE), port=free_port)
    assert coordinator.address == address
    coordinator.process.wait_line("early joined on cpu: 2 clients")
    late = federation.noop_worker(address, "late", clients=CLIENTS[2:])
    assert coordinator.ended_well() == expected
    assert (early.end(), late.end()) == (0, 0)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1::2])
def test_order_of_arrival_does_not_matter(federation: Federation, expected: str, order: tuple[int, ...]) -> None:
    config = federation.config(federated=THREE)
    coordinator = federation.coordinator(config)
    gates = [federation.gate(client) for client in CLIENTS]
    for client, gate in zip(CLIENTS, gates, strict=True):
        federation.noop_worker(coordinator.address, f"has_{client}", clients=[client], gates={client: str(gate.path)})
    for round in (1, 2):
        for gate in gates:
            gate.reached()
        for count, k in enumerate(order, 1):
            gates[k].open()
            wait_accepted(config.with_suffix(""), round, {CLIENTS[i] for i in order[:count]})
    assert coordinator.ended_well() == expected


def test_more_connections_than_the_shell_allows_at_first(federation: Federation) -> None:
    """The soft limit of open files is raised to the hard one; else libzmq would spin, and keep out whoever comes."""
    few = ("sh", "-c", 'ulimit -S -n 64; exec "$@"', "sh", *FEDMQ)
    coordinator = federation.coordinator(federation.config(federated=THREE), command=few)
    soft, hard = resource.prlimit(coordinator.process.pid, resource.RLIMIT_NOFILE)
    assert soft == min(hard, 1 << 16)
    context = zmq.Context()
    try:
        peers = [context.socket(zmq.DEALER) for _ in range(100)]
        for k, peer in enumerate(peers):
            peer.connect(coordinator.address)
            peer.send(Codec(m.TO_COORDINATOR).encode(m.Hello((m.PROTOCOL_VERSION,), f"w{k}", f"{k:032x}")))
        for peer in peers:
            assert peer.poll(1000 * PATIENCE_S), "no answer"
            assert isinstance(Codec(m.TO_WORKER).decode(peer.recv()), m.Welcome)
    finally:
        context.destroy(linger=0)
