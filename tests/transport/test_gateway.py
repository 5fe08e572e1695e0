"""The gateway process: its limits, its deaths, and what they cost."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from curve_peer import CurvePeer, sodium
from gateway_site import PATIENCE_S, Site

from fedmq.errors import ConfigError, RunError
from fedmq.transport import gateway, gateway_child
from fedmq.transport.allowed import revoke
from fedmq.transport.base import Incoming
from fedmq.transport.gateway import GatewayCoordinatorTransport

CHUNK = bytes(1 << 20)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(gateway, "_RESTART_S", 0.0)
    with closing(Site(tmp_path)) as made:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes six seconds takes two, in which one that is well still answers on a busy machine."""
    for module in (gateway, gateway_child):
        monkeypatch.setattr(module, "ASK_S", 0.2)
    monkeypatch.setattr(gateway_child, "HANG_S", 2.0)


def test_the_limit_is_what_it_was_given_beyond_its_start(site: Site) -> None:
    limits = Path(f"/proc/{site.pid}/limits").read_text()
    soft, hard = re.search(r"Max address space\s+(\d+)\s+(\d+)", limits).groups()  # type: ignore[union-attr]
    assert soft == hard and gateway.MEMORY_NBYTES < int(soft) < 2 * gateway.MEMORY_NBYTES
    assert re.search(r"Max core file size\s+0\s+0", limits), "the secret key is never written to a file"


def test_the_secret_key_is_in_no_command_line_and_no_environment(site: Site) -> None:
    secret = site.pair.secret.z85.encode()
    for name in ("cmdline", "environ"):
        content = Path(f"/proc/{site.pid}/{name}").read_bytes()
        assert content and secret not in content


def test_another_takes_the_place_of_one_that_was_killed(site: Site) -> None:
    address, data_port, pid = site.listener.address, site.listener.data_port, site.pid
    old = site.knock(b"hello")
    site.kill()
    assert [notice.kind for notice in site.notices] == ["gateway"]
    assert "the gateway was killed by SIGKILL" in site.notices[0].text
    assert site.listener.send("control", old, b"lost") is False, "its links are gone"
    new = site.come_back(b"again")
    assert new != old and site.pid != pid
    assert (site.listener.address, site.listener.data_port) == (address, data_port)
    assert site.listener.send("control", old, b"lost") is False
    assert site.listener.send("control", new, b"welcome") is True
    assert [message.frames for message in site.worker.receive(PATIENCE_S).messages] == [(b"welcome",)]


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("full", [False, True], ids=["idle", "full"])
def test_one_that_hangs_is_killed_and_another_takes_its_place(site: Site, full: bool) -> None:
    address, data_port, pid = site.listener.address, site.listener.data_port, site.pid
    site.worker.dial_data(data_port)
    site.knock(b"hello")
    site.until(lambda: site.worker.receive(0.0) and site.worker.send("data", b"get", b""))
    site.until(lambda: site.messages[-1].plane == "data")
    data = site.messages[-1].peer
    handle = os.pidfd_open(pid)
    try:
        site.signal(signal.SIGSTOP)
        site.until(lambda: stopped(pid))
        while full and site.listener.send("data", data, b"", CHUNK):
            pass
        site.until(lambda: site.notices)
        assert select.select([handle], [], [], 0)[0], "it is gone"
    finally:
        os.close(handle)
    (notice,) = site.notices
    assert notice.kind == "gateway"
    assert notice.text.startswith("the gateway gave no answer for 2 s and was killed by SIGKILL: another takes its")
    peer = site.come_back(b"again")
    assert site.pid != pid and (site.listener.address, site.listener.data_port) == (address, data_port)
    assert site.listener.send("control", peer, b"welcome") is True
    assert [message.frames for message in site.worker.receive(PATIENCE_S).messages] == [(b"welcome",)]
    assert len(site.notices) == 1


@pytest.mark.usefixtures("impatient")
def test_one_that_answers_outlives_a_coordinator_that_pauses(site: Site) -> None:
    pid, child = site.pid, site.listener._child
    assert child is not None
    site.until(lambda: child._asked)
    site.until(lambda: not child._asked)
    site.signal(signal.SIGSTOP)
    site.until(lambda: child._asked)
    site.signal(signal.SIGCONT)
    threading.Event().wait(1.5 * (gateway_child.ASK_S + gateway_child.HANG_S))
    site.until(lambda: not child._asked or site.notices)
    site.knock(b"hello")
    assert site.pid == pid and site.notices == []


def test_one_that_never_gets_ready_is_killed_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_child, "START_S", 1.0)
    site.listener._command[:] = [sys.executable, "-c", "import time; time.sleep(3600)"]
    site.kill()
    site.until(lambda: len(site.notices) == 2)
    assert site.notices[1].text.startswith("the gateway gave no answer for 1 s and was killed by SIGKILL: another")


def test_one_that_is_stopped_takes_no_more_after_a_while_and_blocks_nobody(site: Site) -> None:
    site.worker.dial_data(site.listener.data_port)
    peer = site.knock(b"hello")
    site.until(lambda: site.worker.receive(0.0) and site.worker.send("data", b"get", b""))
    site.until(lambda: site.messages[-1].plane == "data")
    data = site.messages[-1].peer
    site.signal(signal.SIGSTOP)
    sent = 0
    while sent < 1000 and site.listener.send("data", data, b"%d" % sent, CHUNK):
        sent += 1
    assert 100 < sent < 200
    assert site.listener.send("control", peer, b"beat") is True, "the other plane has a queue of its own"
    assert site.listener.receive(0.0).messages == []
    site.signal(signal.SIGCONT)
    heard: list[Incoming] = []
    site.until(lambda: heard.extend(site.worker.receive(0.0).messages) or any(m.plane == "control" for m in heard))
    assert site.notices == []


def test_a_coordinator_that_does_not_read_holds_up_the_network_and_loses_nothing(site: Site) -> None:
    site.worker.dial_data(site.listener.data_port)
    site.knock(b"hello")
    pid, sent = site.pid, 0
    for _ in range(300):  # turns of the worker in which everything that is taken would have gone
        if site.worker.send("data", b"%d" % sent, CHUNK):
            sent += 1
        else:
            site.worker.receive(0.005)
    assert 0 < sent < 100
    site.until(lambda: len(site.messages) == 1 + sent)
    assert [m.frames for m in site.messages[1:]] == [(b"%d" % k, CHUNK) for k in range(sent)]
    assert site.pid == pid and site.notices == []


def test_a_message_with_too_many_frames_reaches_the_coordinator_without_them(site: Site) -> None:
    site.knock(b"hello")
    site.worker._sockets["control"].send_multipart([b"x" * 1000] * 50)
    site.until(lambda: len(site.messages) == 2)
    assert site.messages[-1].frames == (b"", b"") and site.messages[-1].owner == "north"


def test_signals_that_are_meant_for_the_coordinator_do_not_end_it(site: Site) -> None:
    site.knock(b"hello")
    assert os.getsid(site.pid) == site.pid, "Ctrl-C does not reach it"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        site.signal(number)
    peer = site.knock(b"still here")
    assert site.listener.send("control", peer, b"over")
    assert [message.frames for message in site.worker.receive(PATIENCE_S).messages] == [(b"over",)]
    assert site.notices == []


def test_it_ends_with_the_channel(site: Site) -> None:
    handle = os.pidfd_open(site.pid)
    try:
        site.listener._child.channel._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        assert select.select([handle], [], [], PATIENCE_S)[0]
    finally:
        os.close(handle)


def test_a_key_that_is_revoked_while_there_is_no_gateway_is_told(site: Site) -> None:
    site.knock(b"hello")
    site.signal(signal.SIGKILL)
    revoke("north", site.keys)
    site.until(lambda: len(site.notices) >= 2)
    # The worker knocks again at the new one, as a stranger, and may be told of in the same turn.
    assert [notice.kind for notice in site.notices[:2]] == ["gateway", "revoked"]
    assert site.notices[1].worker == "north"


def test_one_death_after_the_other_ends_the_run_with_one_line(site: Site) -> None:
    def die_for_ever() -> None:
        while True:
            site.until(lambda: site.pid)
            site.kill()

    with pytest.raises(RunError, match=r"the gateway died 5 times in a row within 5 s; the last one was killed by SIG"):
        die_for_ever()
    assert len(site.notices) == 4
    assert site.listener.receive(0.0).messages == [] and site.listener.send("control", b"1", b"x") is False


def test_one_that_cannot_start_says_why(site: Site, tmp_path: Path) -> None:
    (site.keys / "coordinator.key").unlink()
    with pytest.raises(ConfigError, match="expected one secret key, the coordinator's"):
        GatewayCoordinatorTransport("tcp://127.0.0.1:0", site.keys)
    with pytest.raises(RunError, match="port is in use"):
        GatewayCoordinatorTransport(site.listener.address, site.keys)
    site.signal(signal.SIGKILL)
    with pytest.raises(RunError, match=r"ended with exit code 2 \(.*expected one secret key"):
        site.until(lambda: False)


@pytest.mark.parametrize("nbytes", [4000, 1 << 18], ids=["small frames", "large frames"])
def test_an_endless_message_costs_the_gateway_at_most(nbytes: int, site: Site, tmp_path: Path) -> None:
    """The limit is made small here; large frames that find no memory cost the link, small ones the process."""
    if sodium() is None:
        pytest.skip("libzmq was built without libsodium, which this test needs for a peer of its own")
    limited = GatewayCoordinatorTransport("tcp://127.0.0.1:0", site.keys, memory_nbytes=96 << 20)
    site.listener.close()
    site.listener = limited
    peer = CurvePeer(int(limited.address.rpartition(":")[2]), site.north, site.pair.public)
    thread = threading.Thread(target=peer.stream, args=(nbytes, 1 << 30))
    thread.start()
    site.until(lambda: not thread.is_alive())
    assert 16 << 20 < peer.sent < 1 << 30, "it was cut off, and not at once"
    assert site.messages == []
