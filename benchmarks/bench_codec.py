"""Bytes and time of each codec on real AdamW deltas, and upload bytes to the same test loss.

    python benchmarks/bench_codec.py [--seeds 42 43 44] [--rounds 10] [--most 16] [--repeats 20] [--json]

To the same loss: `fedmq run` on the bundled base and --rows of the bundled sample, 4 clients (equal random parts) that
all train in each round, one epoch, else as configs/quickstart.json. The target is the test loss of fp32 uploads under
plain FedAvg after --rounds rounds, for each seed; every other way goes on for --most rounds, and is counted by the
upload bytes that run.db has of the rounds to that loss, the last of them in part (a straight line between two losses).

Codecs: the deltas are those of the fp32 run's clients in the first round and the last: client_K/round_N less the global
adapter before it. Time is for GPT-2 small's adapter (r = 8 on c_attn and c_proj, 811,008 values), each tensor drawn
from the real ones of its kind, A or B, with replacement; encoding is with what error feedback does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from measured import frame, summary
from noop_trainer import GPT2
from safetensors.numpy import load_file

from fedmq import tensors
from fedmq.codec import raw
from fedmq.codec.delta import Codec
from fedmq.codec.update import BY_NAME
from fedmq.config import get_default_config, resolve_dataset_path
from fedmq.data.reading import read_filtered

WEIGHTS = "adapter_model.safetensors"
NESTEROV = {"lr": 0.7, "momentum": 0.6}
#: name -> codec, its options, server optimiser
WAYS: dict[str, tuple[str, dict[str, Any], str]] = {
    "fp32": ("fp32", {}, "none"),
    "bf16": ("bf16", {}, "none"),
    "int8": ("int8", {}, "none"),
    "int4": ("int4", {}, "none"),
    "int4, error feedback": ("int4", {"error_feedback": True}, "none"),
    "sign without error feedback": ("sign", {"error_feedback": False}, "none"),
    "sign": ("sign", {}, "none"),
    "topk": ("topk", {}, "none"),
    "fp32, nesterov": ("fp32", {}, "nesterov"),
    "int4, nesterov": ("int4", {}, "nesterov"),
    "sign, nesterov": ("sign", {}, "nesterov"),
    "topk, nesterov": ("topk", {}, "nesterov"),
}
Delta = dict[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--rounds", type=int, default=10, help="of fp32 and plain FedAvg, whose loss is the target")
    parser.add_argument("--most", type=int, default=16, help="rounds of the others")
    parser.add_argument("--repeats", type=int, default=20, help="of each encoding and decoding")
    parser.add_argument("--rows", type=int, default=480, help="customers' texts used: 80 %% to train, 10 %% to test")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "rows.csv"
        some_rows(table, arguments.rows)
        runs: dict[str, list[dict[str, Any]]] = {}
        for name in dict.fromkeys(["fp32", *arguments.ways]):
            rounds = arguments.rounds if name == "fp32" else arguments.most
            where = [Path(scratch) / f"{name} {seed}" for seed in arguments.seeds]
            ways = zip(where, arguments.seeds, strict=True)
            runs[name] = [run(folder, table, settings_of(name), seed, rounds) for folder, seed in ways]
            print(name, [[round(x, 4) for x in one["loss"]] for one in runs[name]], file=sys.stderr)
        targets = [one["loss"][arguments.rounds] for one in runs["fp32"]]
        to_target = {name: [reached(one, t) for one, t in zip(of, targets, strict=True)] for name, of in runs.items()}
        deltas = real_deltas(Path(scratch) / f"fp32 {arguments.seeds[0]}", (1, arguments.rounds))
    large = as_gpt2(deltas)
    result = {
        "targets": targets,
        "to_target": {name: ratios(to_target[name], to_target["fp32"]) for name in runs},
        "loss_after": {name: [one["loss"][arguments.rounds] for one in of] for name, of in runs.items()},
        "codecs": {name: measure(name, deltas, large, arguments.repeats) for name in BY_NAME},
        "values": sum(value.size for value in deltas[0].values()),
        **frame(numpy=np.__version__, zstandard=zstandard.__version__),
    }
    print(json.dumps(result)) if arguments.json else show(result)


def some_rows(path: Path, count: int) -> None:
    """The first customers' texts of the bundled sample, as a CSV of its own."""
    spec = get_default_config().to_run_spec().data
    read_filtered(resolve_dataset_path("bundled"), spec).frame.head(count).to_csv(path, index=False)


def settings_of(name: str) -> dict[str, str]:
    """The settings of a way, as `--set` takes them."""
    codec, options, optimizer = WAYS[name]
    return {
        "upload_codec": codec,
        "upload_codec_options": json.dumps(options),
        "server_optimizer": optimizer,
        "server_optimizer_options": json.dumps(NESTEROV if optimizer == "nesterov" else {}),
    }


def run(folder: Path, table: Path, federated: dict[str, str], seed: int, rounds: int) -> dict[str, Any]:
    """Loss by version, and bytes by round, both ways."""
    settings = {
        "seed": seed,
        "log_dir": str(folder / "logs"),
        "data.dataset_path": str(table),
        "data.filter_inbound_only": "false",
        "federated.num_clients": 4,
        "federated.clients_per_round": 4,
        "federated.num_rounds": rounds,
        "federated.save_every": 1,
        "generation.prompts": "[]",
        **{f"federated.{name}": value for name, value in federated.items()},
    }
    command = [sys.executable, "-m", "fedmq", "run", "--output-dir", str(folder), "--json"]
    for setting, value in settings.items():
        command += ["--set", f"{setting}={value}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    metrics = json.loads((folder / "training_metrics.json").read_text())
    clients = [row["client_metrics"] for row in metrics["round_metrics"]]
    nbytes = {way: [sum(client[way] for client in row) for row in clients] for way in ("bytes_up", "bytes_down")}
    return {"loss": metrics["training_history"]["global_loss"], **nbytes}


def reached(one: dict[str, Any], target: float) -> tuple[float, float] | None:
    """(rounds, upload bytes) to this loss, on a straight line from round to round; None when it never was."""
    for version, (before, loss) in enumerate(zip(one["loss"], one["loss"][1:], strict=False)):
        if loss <= target:
            part = (before - target) / (before - loss)
            return version + part, sum(one["bytes_up"][:version]) + part * one["bytes_up"][version]
    return None


def ratios(ours: list[tuple[float, float] | None], fp32: list[tuple[float, float] | None]) -> dict[str, Any]:
    """Rounds by seed, and how many times fewer upload bytes than fp32; None where the loss was not reached."""
    fewer = [None if a is None or b is None else b[1] / a[1] for a, b in zip(ours, fp32, strict=True)]
    return {"rounds": [a and a[0] for a in ours], "fewer_bytes": fewer}


def real_deltas(folder: Path, rounds: tuple[int, ...]) -> list[Delta]:
    """What clients of a run moved the adapter by."""
    deltas = []
    for round in rounds:
        base = load_file(folder / "global_model" / f"round_{round - 1}" / WEIGHTS)
        for client in sorted(folder.glob("client_*")):
            if (client / f"round_{round}").is_dir():
                deltas.append(tensors.subtract(load_file(client / f"round_{round}" / WEIGHTS), base))
    return deltas


def as_gpt2(deltas: list[Delta]) -> Delta:
    """A delta of GPT-2 small's adapter, whose values are drawn from these."""
    draw = np.random.default_rng(0)
    pools = {
        factor: np.concatenate([v.ravel() for delta in deltas for n, v in delta.items() if f"lora_{factor}" in n])
        for factor in "AB"
    }
    shapes = {}
    for layer in range(12):
        for module, (d_in, d_out) in GPT2.items():
            prefix = f"base_model.model.transformer.h.{layer}.{module}"
            shapes |= {f"{prefix}.lora_A.weight": (8, d_in), f"{prefix}.lora_B.weight": (d_out, 8)}
    return {name: draw.choice(pools[name.split("lora_")[1][0]], size) for name, size in shapes.items()}


def measure(name: str, deltas: list[Delta], large: Delta, repeats: int) -> dict[str, Any]:
    """Bytes, what is lost, and milliseconds."""
    codec: Codec = BY_NAME[name]()
    whole = sum(len(raw.encode(tensors.astype(delta, np.float32))) for delta in deltas)
    nbytes, lost, square = 0, 0.0, 0.0
    for delta in deltas:
        content, _ = codec.encode(delta, codec.init(delta))
        got = codec.decode(content, tensors.spec(tensors.astype(delta, np.float32)))
        nbytes += len(content)
        lost += tensors.l2_norm(tensors.subtract(got, delta)) ** 2
        square += tensors.l2_norm(delta) ** 2
    spec, state = tensors.spec(tensors.astype(large, np.float32)), codec.init(large)
    content, _ = codec.encode(large, state)
    encoding, decoding = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        codec.encode(large, state)
        encoded = time.perf_counter()
        codec.decode(content, spec)
        encoding.append(1e3 * (encoded - started))
        decoding.append(1e3 * (time.perf_counter() - encoded))
    return {
        "fewer_bytes": whole / nbytes,
        "lost": lost / square,
        "nbytes_gpt2": len(content),
        "encode_ms": summary(encoding),
        "decode_ms": summary(decoding),
    }


def show(result: dict[str, Any]) -> None:
    """For people."""
    print(f"{result['host']}; bundled base and sample, adapter of {result['values']} values")
    print(f"{'codec':6} {'fewer':>6} {'lost':>8} {'GPT-2 bytes':>12} {'encode ms':>22} {'decode ms':>22}")
    for name, row in result["codecs"].items():
        times = [f"{t['median']:.1f} ({t['min']:.1f}-{t['max']:.1f})" for t in (row["encode_ms"], row["decode_ms"])]
        print(f"{name:6} {row['fewer_bytes']:6.2f} {row['lost']:8.1e} {row['nbytes_gpt2']:12,}", end="")
        print(f" {times[0]:>22} {times[1]:>22}")
    print(f"targets: {', '.join(f'{target:.4f}' for target in result['targets'])}")
    for name, row in result["to_target"].items():
        rounds = ", ".join("never" if count is None else f"{count:.1f}" for count in row["rounds"])
        fewer = ", ".join("-" if value is None else f"{value:.1f}" for value in row["fewer_bytes"])
        losses = ", ".join(f"{loss:.4f}" for loss in result["loss_after"][name])
        print(f"{name:28} rounds {rounds:12} fewer upload bytes {fewer:18} loss then {losses}")


if __name__ == "__main__":
    main()
