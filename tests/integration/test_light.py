"""The coordinator stays small, whatever the size of the adapter and the number of clients."""

from __future__ import annotations

from conftest import Federation
from running import children, peak_mb

#: Of GPT-2's adapter for c_attn and c_proj at r = 8, in two tensors.
GPT2_SHAPE = [811_008 // 2]
CLIENTS = [f"client_{k}" for k in range(12)]
LIMIT_MB = 200


def imported(lines: list[str]) -> set[str]:
    """Modules named by a process that runs with PYTHONPROFILEIMPORTTIME."""
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def test_memory_and_imports_of_the_live_coordinator_and_agents(federation: Federation) -> None:
    federated = {"num_clients": 12, "clients_per_round": 12, "num_rounds": 2}
    config = federation.config(federated=federated)
    coordinator = federation.coordinator(config, PYTHONPROFILEIMPORTTIME="1")
    gate = federation.gate("last")
    agents = [
        federation.noop_worker(
            coordinator.address,
            f"w{k}",
            clients=CLIENTS[k::2],
            shape=GPT2_SHAPE,
            gates={"client_11": str(gate.path)},
            env={"PYTHONPROFILEIMPORTTIME": "1"},
        )
        for k in range(2)
    ]
    gate.open()
    gate.reached()  # the second round: everything has been aggregated once, from 12 files of 3.2 MB
    processes = {"coordinator": coordinator.process, "w0": agents[0], "w1": agents[1]}
    for name, process in processes.items():
        modules = imported(process.lines["stderr"])
        assert {"zmq", "msgpack"} <= modules, f"{name}: the list of modules is not what it should be"
        assert not {"torch", "transformers", "peft", "pandas"} & modules, name
        assert peak_mb(process.pid) < LIMIT_MB, name
    assert all(children(agent.pid) for agent in agents), "training is the work of another process"
    gate.open()
    coordinator.ended_well()
