"""A network that is slow, silent or torn between coordinator and worker: the run ends with the same model."""

from __future__ import annotations

import pytest
from bad_network import Start
from chaos_proxy import Direction
from impatient_fedmq import DEAD_S
from running import accepted, eventually

from fedmq.protocol.policy import Timers
from fedmq.runtime.intake import Intake

SMALL, LARGE = 12_500, 1_500_000  # 100 kB and 12 MB
SLOW = 32_000  # bytes a second: 256 kbit/s
WINDOW_NBYTES = Intake.credits * Intake.chunk_nbytes
NIGHT = pytest.mark.nightly
BOTH: tuple[Direction, ...] = ("up", "down")


@pytest.mark.parametrize(
    ("directions", "patient"),
    [
        (("up",), False),
        (("down",), False),
        pytest.param(("up",), True, marks=NIGHT),
        pytest.param(("down",), True, marks=NIGHT),
        pytest.param(BOTH, True, marks=NIGHT),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else ["impatient", "patient"][value],
)
def test_silence_while_an_update_is_finished(
    bad_network: Start, directions: tuple[Direction, ...], patient: bool
) -> None:
    """Nothing gets through, in one direction or both, until both ends have done what they do about it."""
    network = bad_network(SMALL, patient=patient)
    worker = network.start_worker()
    network.gate.reached()
    network.proxy.hold(*directions)
    network.train(1)
    worker.wait_line("nothing heard from the coordinator: connecting anew", "stderr")
    if "up" in directions:
        network.coordinator.process.wait_line("w0 lost .no sign of life")
    assert accepted(network.run_dir, 1) == []
    network.proxy.release()
    network.train(1)
    network.ends_as_undisturbed()
    assert worker.end() == 0
    assert all(network.proxy.line("control", direction).holds for direction in directions)
    assert len(accepted(network.run_dir, 1)) == 2


@pytest.mark.parametrize(
    ("direction", "size"),
    [("down", LARGE), ("up", LARGE), pytest.param("down", 6_250_000, marks=NIGHT)],
    ids=["12 MB down", "12 MB up", "50 MB down"],
)
def test_resets_in_the_middle_of_an_adapter(bad_network: Start, direction: Direction, size: int) -> None:
    """At most a window is sent again for each."""
    network = bad_network(size)
    line = network.proxy.line("data", direction)
    resets = size * 8 // (4 << 20)
    line.reset_every, line.resets_left = 4 << 20, resets
    network.start_worker()
    network.train()
    network.ends_as_undisturbed()
    assert line.resets == resets
    # Down goes the first adapter and nothing else; up go that, and two updates. One byte per thousand for headers.
    wanted = network.nbytes * (1 if direction == "down" else 3)
    assert wanted <= line.nbytes <= line.read < 1.001 * wanted + resets * WINDOW_NBYTES
    assert network.said("lost") == network.said("silent") == []


def test_a_download_goes_on_after_a_restart_of_the_worker(bad_network: Start) -> None:
    network = bad_network(LARGE)
    line = network.proxy.line("data", "down")
    line.hold_at = 5 << 20
    worker = network.start_worker()
    part = eventually(
        lambda: line.holds and [p for p in network.work_dir.rglob("*.part") if p.stat().st_size >= 3 << 20],
        "a download that is held",
    )[0]
    worker.kill()
    held = part.stat().st_size
    network.proxy.release()
    network.start_worker()
    network.train()
    network.ends_as_undisturbed()
    down = sum(row["bytes_down"] for row in accepted(network.run_dir, 1))
    assert network.nbytes - held < down < 1.001 * (network.nbytes - held) + WINDOW_NBYTES
    # One byte per thousand for headers and heartbeats.
    assert line.nbytes < 1.001 * network.nbytes + WINDOW_NBYTES


def test_an_upload_goes_on_after_a_restart_of_the_coordinator(bad_network: Start) -> None:
    network = bad_network(LARGE)
    worker = network.start_worker()
    network.gate.reached()
    line = network.proxy.line("data", "up")
    before = line.nbytes
    line.hold_at = before + (5 << 20)
    network.gate.open()
    part = eventually(
        lambda: line.holds and [p for p in network.run_dir.rglob("*.part") if p.stat().st_size >= 3 << 20],
        "an upload that is held",
    )[0]
    network.coordinator.process.kill()
    held = part.stat().st_size
    read = line.read
    network.proxy.release()
    network.restart_coordinator()
    network.gate.open()
    network.ends_as_undisturbed()
    assert worker.end() == 0
    # The rest of the first update, and the second; of what was in flight at the kill at most a window again.
    assert held >= 3 << 20
    assert line.read - read <= 2 * network.nbytes - held + WINDOW_NBYTES


@pytest.mark.parametrize(
    ("size", "patient"), [(17_500, False), pytest.param(62_500, True, marks=NIGHT)], ids=["140 kB", "500 kB"]
)
def test_heartbeats_pass_while_an_adapter_moves_on_a_slow_link(bad_network: Start, size: int, patient: bool) -> None:
    """256 kbit/s, half a second there and back: each way an adapter takes longer than a silent worker is waited for.

    And yet nobody is missed, as heartbeats have a connection of their own, and so their share of what passes.
    """
    network = bad_network(size, patient=patient)
    for line in network.proxy.lines.values():
        line.latency_s, line.jitter_s = 0.25, 0.2
    network.proxy.bandwidth.update(up=SLOW, down=SLOW)
    worker = network.start_worker()
    # The first adapter has gone up, and down; by day the rest need not be as slow.
    network.gate.reached()
    down = network.proxy.line("data", "down").nbytes
    if not patient:
        network.proxy.bandwidth.update(up=None, down=None)
    network.train()
    network.ends_as_undisturbed()
    assert network.said("lost") == network.said("silent") == []
    assert not [line for line in worker.lines["stderr"] if "connecting anew" in line]
    assert network.nbytes > SLOW * (Timers().dead_s if patient else DEAD_S)
    assert network.nbytes <= down < 1.1 * network.nbytes
    assert all(line.delays and line.narrowings for line in network.proxy.lines.values())
    # What passes at that speed comes in small pieces.
    assert all(network.proxy.line("data", way).narrowings >= network.nbytes * 20 / SLOW for way in BOTH)


@NIGHT
@pytest.mark.timeout(600)
@pytest.mark.parametrize("keys", [True, False], ids=["keys", "clear"])
def test_everything_slow_at_once(bad_network: Start, keys: bool) -> None:
    """Half a second each way give or take 0.4 s, 256 kbit/s for all together, one byte at a time."""
    network = bad_network(SMALL, patient=True, keys=keys)
    for line in network.proxy.lines.values():
        line.latency_s, line.jitter_s, line.slice_nbytes = 0.5, 0.4, 1
    network.proxy.bandwidth.update(up=SLOW, down=SLOW)
    network.start_worker()
    network.train()
    network.ends_as_undisturbed()
    assert network.said("lost") == network.said("silent") == []
    assert all(line.delays and line.narrowings for line in network.proxy.lines.values())
    assert all(line.slices > 0.9 * line.nbytes for line in network.proxy.lines.values())
