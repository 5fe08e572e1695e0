"""What clients remember: the state that goes with the update that counted, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import adapter

from fedmq import tensors
from fedmq.codec import raw
from fedmq.codec.part import of_part
from fedmq.codec.update import update_codec
from fedmq.config import get_default_config
from fedmq.protocol import messages as m
from fedmq.protocol.work import TrainWork
from fedmq.recipe import CodecSpec, Part
from fedmq.runtime.client_states import ClientStates, forget_all, of_worker
from fedmq.runtime.packing import Packed, pack

SIGN = CodecSpec("sign", None, None, None)


def update(round: int, digit: str = "a") -> m.Folded:
    return m.Folded(round, digit * 64)


def state(value: float) -> dict[str, np.ndarray]:
    return {"upload:w": np.array([value], np.float32), "other": np.array(float(value))}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.safetensors"))


def test_the_state_of_the_update_that_counted(tmp_path: Path) -> None:
    states = ClientStates(tmp_path)
    assert states.recall("client_1", None) == {}
    states.keep("client_1", update(1, "a"), state(1))
    states.keep("client_1", update(1, "b"), state(2))
    states.keep("client_2", update(1, "a"), state(3))
    again = ClientStates(tmp_path)
    assert again.recall("client_1", None) == {}, "neither counted"
    found = again.recall("client_1", update(1, "b"))
    assert found is not None and tensors.digest(found) == tensors.digest(state(2))
    assert again.recall("client_1", update(1, "b")) is not None, "as often as it is asked for"
    assert again.recall("client_2", update(1, "b")) is None, "of another client"


def test_older_states_are_deleted_and_later_ones_stay(tmp_path: Path) -> None:
    states = ClientStates(tmp_path)
    for round, digit in ((1, "a"), (2, "a"), (2, "b"), (3, "a"), (4, "c")):
        states.keep("client_1", update(round, digit), state(round))
        states.keep("client_2", update(round, digit), state(round))
    (tmp_path / "client_1" / "round_1-notes.txt").write_text("not ours")
    assert states.recall("client_1", update(2, "b")) is not None
    assert files(tmp_path / "client_1") == [
        f"round_{r}-{d * 64}.safetensors" for r, d in ((2, "b"), (3, "a"), (4, "c"))
    ]
    assert (tmp_path / "client_1" / "round_1-notes.txt").exists()
    assert len(files(tmp_path / "client_2")) == 5
    # Who comes late, for a round that is over, does no harm to the next.
    assert states.recall("client_1", update(1)) is None
    assert len(files(tmp_path / "client_1")) == 3


def test_the_one_that_counted_before_may_be_spared(tmp_path: Path) -> None:
    """Not those that were made since, and did not count: a version that is still to be scored follows none of them."""
    made = ((1, "a"), (2, "a"), (3, "a"), (4, "a"), (5, "a"), (5, "b"), (6, "a"))
    for round, digit in made:
        ClientStates(tmp_path, spare=True).keep("client_1", update(round, digit), state(round))

    def ask(round: int, digit: str) -> list[tuple[int, str]]:
        """By another worker each time; what is there then."""
        assert ClientStates(tmp_path, spare=True).recall("client_1", update(round, digit)) is not None
        return [(r, d) for r, d in made if f"round_{r}-{d * 64}.safetensors" in files(tmp_path)]

    assert ask(1, "a") == [*made]
    assert ask(2, "a") == [*made]
    assert ask(5, "b") == [(2, "a"), (5, "b"), (6, "a")]
    assert ask(2, "a") == ask(5, "b") == [(2, "a"), (5, "b"), (6, "a")], "the version before is scored late"
    assert ask(6, "a") == [(5, "b"), (6, "a")]
    assert len(list(tmp_path.rglob("*.counted"))) == 2
    ClientStates(tmp_path).recall("client_1", update(7))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("damage", [b"", b"x", b"\0" * 100])
def test_a_damaged_state_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes) -> None:
    states = ClientStates(tmp_path)
    states.keep("client_1", update(1), state(1))
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(damage)
    assert states.recall("client_1", update(1)) is None
    assert "what client_1 remembered is damaged (SAFETENSORS: " in caplog.text


def test_a_worker_keeps_states_of_one_run(tmp_path: Path) -> None:
    old, new = of_worker(tmp_path, "a" * 32), of_worker(tmp_path, "b" * 32)
    ClientStates(old).keep("client_1", update(1), state(1))
    assert of_worker(tmp_path, "b" * 32) == new and not old.exists()
    ClientStates(new).keep("client_1", update(1), state(1))
    assert of_worker(tmp_path, "b" * 32) == new and files(new)
    forget_all(tmp_path)
    forget_all(tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- packing ---------------------------------------------------------------------------------------


class Client:
    """A client that is trained by two hosts in turn; `base` stays the same."""

    def __init__(self, folder: Path, spec: CodecSpec = SIGN) -> None:
        self.folder, self.codec, self.base = folder, update_codec(spec), adapter(0)
        self.part = Part("both", None)
        self.count = 0

    def trained(self, round: int) -> dict[str, np.ndarray]:
        draw = np.random.default_rng(round)
        return {n: (v + draw.normal(0, 1e-3, v.shape)).astype(np.float32) for n, v in self.base.items()}

    def pack(self, round: int, follows: m.Folded | None, host: str = "a") -> Packed:
        work = TrainWork("train", get_default_config().to_run_spec().training, self.part)
        task = m.Task(f"train-{round}-client_1-0", "cd" * 16, round, "client_1", 7, None, work, follows, None, None)
        self.count += 1
        path = self.folder / f"{self.count}.update"
        return pack(task, self.trained(round), self.base, {}, self.codec, ClientStates(self.folder / host), path)

    def sent(self) -> dict[str, np.ndarray]:
        """What arrives of the update that was packed last, as a delta."""
        content = (self.folder / f"{self.count}.update").read_bytes()
        return tensors.subtract(of_part(self.codec, self.part).decode(content, self.base), self.base)


def test_an_update_goes_on_from_the_one_that_counted(tmp_path: Path) -> None:
    """sum(sent) + residual = sum(deltas) over the rounds that counted: 1, 3 and 4."""
    client = Client(tmp_path)
    follows, sent, wanted = None, tensors.zeros_like(client.base), tensors.zeros_like(client.base)
    for round in (1, 2, 3, 4):
        packed = client.pack(round, follows)
        assert not packed.state_lost
        if round == 2:
            continue
        follows = m.Folded(round, packed.digest)
        sent = tensors.add(sent, client.sent())
        wanted = tensors.add(wanted, tensors.subtract(client.trained(round), client.base))
    residual: Any = ClientStates(tmp_path / "a").recall("client_1", follows)
    for name in client.base:
        # Adapters are float32: what they are rounded by, in each round, is lost.
        assert np.allclose(sent[name] + residual[f"upload:{name}"], wanted[name], rtol=0, atol=1e-6)
        assert not np.allclose(sent[name], wanted[name], rtol=0, atol=1e-4)


def test_done_again_it_gives_the_same_bytes(tmp_path: Path) -> None:
    client = Client(tmp_path)
    first = client.pack(1, None)
    assert client.pack(1, None) == first
    follows = m.Folded(1, first.digest)
    second = client.pack(2, follows)
    assert client.pack(3, follows) != second and client.pack(2, follows) == second
    assert client.pack(2, None) != second, "what is remembered counts"


def test_a_state_that_is_elsewhere_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(tmp_path)
    follows = m.Folded(1, client.pack(1, None, "a").digest)
    lost = client.pack(2, follows, "b")
    assert lost.state_lost and "what client_1 remembered after round 1 is not here: it begins anew" in caplog.text
    assert lost.digest == client.pack(2, None, "c").digest, "as if it had never been trained"
    assert not client.pack(2, follows, "a").state_lost


@pytest.mark.parametrize("name", ["fp32", "int4"])
def test_what_remembers_nothing_keeps_nothing(tmp_path: Path, name: str) -> None:
    client = Client(tmp_path, CodecSpec(name, None, None, None))
    packed = client.pack(2, update(1))
    assert not packed.state_lost and files(tmp_path) == []
    if name == "fp32":
        assert (tmp_path / "1.update").read_bytes() == raw.encode(client.trained(2))


def test_the_state_is_durable_before_the_update_is(tmp_path: Path) -> None:
    """An update that nobody can go on from must not be offered."""
    client = Client(tmp_path)
    (tmp_path / "a").write_text("in the way of a folder")
    with pytest.raises(OSError, match="a"):
        client.pack(1, None)
    assert not list(tmp_path.glob("*.update"))
