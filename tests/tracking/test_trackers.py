"""What trackers are told of a run, read back by the libraries themselves."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmq.errors import ConfigError
from fedmq.tracking.backends import BY_NAME
from fedmq.tracking.tracker import About

#: Step -> scalars, as a library has them; and the digest, None where it has none.
Kept = tuple[dict[int, dict[str, float]], str | None]
RUN = "ab" * 16
ROUNDS = [(0, 10.0, {"global/loss": 5.0}), (1, 20.5, {"global/loss": 4.0, "bytes/up": 1e6}), (2, 31.0, {"a/b": -1.5})]


def _of_tensorboard(folder: Path) -> Kept:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    steps: dict[int, dict[str, float]] = {}
    for tag in found.Tags()["scalars"]:
        for event in found.Scalars(tag):
            assert tag not in steps.setdefault(event.step, {}), "doubled"
            steps[event.step][tag] = event.value
            assert event.wall_time == {step: at for step, at, _ in ROUNDS}[event.step]
    (config,) = found.Tensors("config")
    table = config.tensor_proto.string_val[0].decode()
    assert "| lora.r | 8 |" in table and {row.count("|") for row in table.splitlines()} == {3}, "two cells a row"
    texts = found.Tags()["tensors"]
    if "digest" not in texts:
        return steps, None
    (digest,) = found.Tensors("digest")
    assert (digest.step, digest.wall_time) == ROUNDS[-1][:2], "it is of the last round, not of 1970"
    return steps, digest.tensor_proto.string_val[0].decode()


def _of_mlflow(folder: Path) -> Kept:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fedmq")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["lora.r"] == "8" and run.info.run_name == "name"
    steps: dict[int, dict[str, float]] = {}
    for key in run.data.metrics.keys() - {"round"}:
        for metric in client.get_metric_history(run.info.run_id, key):
            assert key not in steps.setdefault(metric.step, {}), "doubled"
            steps[metric.step][key] = metric.value
    digest = run.data.tags.get("digest")
    assert run.info.status == ("FINISHED" if digest else "KILLED")
    return dict(sorted(steps.items())), digest


def _records(content: bytes) -> Iterator[bytes]:
    """Of an offline file: 7 bytes, then a LevelDB log. wandb's own reader is in Go, and wants the network."""
    block, at, parts = 1 << 15, 7, b""
    assert content[:4] == b":W&B"
    while at + 7 <= len(content):
        if block - at % block < 7:
            at += block - at % block
            continue
        size, kind = struct.unpack_from("<HB", content, at + 4)
        if at + 7 + size > len(content):
            return
        parts += content[at + 7 : at + 7 + size]
        at += 7 + size
        # 1 = whole, 2 = first, 3 = middle, 4 = last
        if kind in (1, 4):
            yield parts
            parts = b""


def _whole(folder: Path) -> list[Any]:
    """The records of an offline run, once its end is written: finish() does not wait for it, the process' end does."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    deadline, pause = time.monotonic() + 60, threading.Event()
    while True:
        records = [Record.FromString(content) for content in _records(path.read_bytes())]
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        assert time.monotonic() < deadline, "its end was never written"
        pause.wait(0.02)


def _of_wandb(folder: Path) -> Kept:
    steps: dict[int, dict[str, float]] = {}
    digest, configs = None, dict[str, str]()
    for record in _whole(folder):
        if record.WhichOneof("record_type") == "run":
            assert (record.run.run_id, record.run.display_name) == (RUN, "name")
            configs |= {item.key: item.value_json for item in record.run.config.update}
        elif record.WhichOneof("record_type") == "history":
            values = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
            assert record.history.step.num not in steps, "doubled"
            steps[record.history.step.num] = {
                key: value for key, value in values.items() if not key.startswith("_") and key != "committed_at"
            }
        elif record.WhichOneof("record_type") == "summary":
            found = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.summary.update}
            digest = found.get("digest", digest)
    assert configs["lora.r"] == "8"
    assert not list(folder.rglob("files/*")), "nothing of the machine"
    return steps, digest


READ: dict[str, Callable[[Path], Kept]] = {
    "tensorboard": _of_tensorboard,
    "mlflow": _of_mlflow,
    "wandb": _of_wandb,
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*noload.*")


def test_all_are_tested() -> None:
    assert READ.keys() == BY_NAME.keys()


@pytest.mark.parametrize("name", READ)
def test_a_resumed_run_goes_on_without_a_gap_and_without_doubles(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    about = About(RUN, "name", {"seed": 1, "lora.r": 8, "prompts": ["a | b", "b"]}, tmp_path / name)
    # Round 1 was scored anew meanwhile, by more clients: one of the two figures stands, not both.
    again = [ROUNDS[0], (1, 20.5, ROUNDS[1][2] | {"global/loss": 4.25}), ROUNDS[2]]
    for rounds, done in ((ROUNDS[:2], False), (again, True)):
        tracker = BY_NAME[name](about)
        for row in rounds:
            tracker.log(*row)
        tracker.end(done, "cd" * 32)
        steps, digest = READ[name](about.folder)
        assert list(steps) == [step for step, _, _ in rounds]
        for step, _, scalars in rounds:
            assert steps[step] in (scalars, ROUNDS[step][2])
        assert digest == ("cd" * 32 if done else None)
        if not done:
            assert capfd.readouterr() == ("", ""), "the terminal is the run's"


@pytest.mark.parametrize("mark", "%?")
def test_mlflow_does_not_write_elsewhere(mark: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose an output_dir without % and ?"):
        BY_NAME["mlflow"](About(RUN, "name", {}, tmp_path / f"half{mark}done"))
    assert not list(tmp_path.iterdir())


def test_a_run_of_the_users_own_at_weights_and_biases_is_let_alone(tmp_path: Path) -> None:
    import wandb

    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True)
    with wandb.init(mode="offline", dir=str(tmp_path), project="mine", settings=settings) as mine:
        about = About(RUN, "name", {"lora.r": 8}, tmp_path / "ours")
        tracker = BY_NAME["wandb"](about)
        tracker.log(0, 10.0, {"global/loss": 5.0})
        tracker.end(False, "")
        assert _of_wandb(about.folder) == ({0: {"global/loss": 5.0}}, None)
        mine.log({"own": 1.0})
        assert wandb.run is mine
    logged = [item.nested_key[0] for record in _whole(tmp_path) for item in record.history.item]
    assert [name for name in logged if not name.startswith("_")] == ["own"]
