"""Download bytes and loss of each codec of the global adapter, against whole adapters.

    python benchmarks/bench_download_codec.py [--seeds 42 43] [--rounds 10] [--ways WAY ...] [--json]

Runs are those of bench_codec.py: the bundled base, 480 texts of the bundled sample, 4 clients that all train in each
round, one epoch, on as many workers as there are cores. Every worker takes part in every round, so that it always holds
the version before; the first adapter is whole. Printed are the test loss after --rounds rounds for each seed, the
difference to fp32 of the same seed, and how many times fewer bytes came down: in rounds 2 and later, and in all.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_codec import NESTEROV, run, some_rows
from measured import frame

#: name -> download codec, its options, upload codec, server optimiser
WAYS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "fp32": ("fp32", {}, "fp32", "none"),
    "bf16": ("bf16", {}, "fp32", "none"),
    "fp16": ("fp16", {}, "fp32", "none"),
    "int8": ("int8", {}, "fp32", "none"),
    "int4": ("int4", {}, "fp32", "none"),
    "int4 without error feedback": ("int4", {"error_feedback": False}, "fp32", "none"),
    "sign": ("sign", {}, "fp32", "none"),
    "sign without error feedback": ("sign", {"error_feedback": False}, "fp32", "none"),
    "topk": ("topk", {}, "fp32", "none"),
    "int4, uploads too": ("int4", {}, "int4", "none"),
    "fp32, nesterov": ("fp32", {}, "fp32", "nesterov"),
    "int4, uploads too, nesterov": ("int4", {}, "int4", "nesterov"),
    "sign, uploads too, nesterov": ("sign", {}, "sign", "nesterov"),
}
#: what a way is compared with
BASELINES = ("fp32, nesterov", "fp32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--rows", type=int, default=480, help="customers' texts used: 80 %% to train, 10 %% to test")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "rows.csv"
        some_rows(table, arguments.rows)
        for name in dict.fromkeys([*(baseline(way) for way in arguments.ways), *arguments.ways]):
            where = [(Path(scratch) / f"{name} {seed}", seed) for seed in arguments.seeds]
            runs[name] = [run(folder, table, settings_of(name), seed, arguments.rounds) for folder, seed in where]
            print(name, [(round(one["loss"][-1], 4), sum(one["bytes_down"])) for one in runs[name]], file=sys.stderr)
    result = {"ways": {name: compared(runs[name], runs[baseline(name)]) for name in runs}, **frame()}
    print(json.dumps(result)) if arguments.json else show(result)


def baseline(name: str) -> str:
    """The way with whole adapters and the same server."""
    return next(way for way in BASELINES if WAYS[way][3] == WAYS[name][3])


def settings_of(name: str) -> dict[str, str]:
    """The settings of a way, as `--set` takes them."""
    codec, options, upload, optimizer = WAYS[name]
    return {
        "download_codec": codec,
        "download_codec_options": json.dumps(options),
        "upload_codec": upload,
        "server_optimizer": optimizer,
        "server_optimizer_options": json.dumps(NESTEROV if optimizer == "nesterov" else {}),
    }


def compared(ours: list[dict[str, Any]], whole: list[dict[str, Any]]) -> dict[str, Any]:
    """By seed: the last loss, how much that is above the baseline's, and times fewer bytes."""
    pairs = list(zip(ours, whole, strict=True))
    return {
        "loss": [one["loss"][-1] for one in ours],
        "above": [a["loss"][-1] - b["loss"][-1] for a, b in pairs],
        "fewer_later": [sum(b["bytes_down"][1:]) / sum(a["bytes_down"][1:]) for a, b in pairs],
        "fewer_in_all": [sum(b["bytes_down"]) / sum(a["bytes_down"]) for a, b in pairs],
        "bytes_down": [one["bytes_down"] for one in ours],
    }


def show(result: dict[str, Any]) -> None:
    """For people."""
    print(f"{result['host']}; bundled base and sample")
    print(f"{'download codec':30} {'loss':16} {'above fp32':18} {'fewer bytes, later':20} in all")
    for name, row in result["ways"].items():
        loss, above = (", ".join(f"{value:{form}}" for value in row[key]) for key, form in FIGURES)
        later, in_all = (", ".join(f"{value:.1f}" for value in row[key]) for key in ("fewer_later", "fewer_in_all"))
        print(f"{name:30} {loss:16} {above:18} {later:20} {in_all}")


FIGURES = (("loss", ".4f"), ("above", "+.4f"))


if __name__ == "__main__":
    main()
