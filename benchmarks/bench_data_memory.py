"""Peak memory and time of the data path on a CSV as large as the full Twitter customer support file.

A file with that file's schema, row count, share of inbound rows and mean text length is generated
in a temporary folder; a child process reads, filters, splits, partitions and writes all shards
with a byte-level encode, and reports its peak resident memory.

    python benchmarks/bench_data_memory.py [--rows N] [--method by_author|by_brand|...] [--clients 10] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FULL_ROWS = 2_811_774
BLOCK = 100_000
HEADER = "tweet_id,author_id,inbound,created_at,text,response_tweet_id,in_response_to_tweet_id\n"
EXTRAS = ("", "", "", " ’", " 😡", '\nthanks ""team""')


def generate(path: Path, rows: int, seed: int = 0) -> None:
    """Write `rows` rows: 55 % inbound, 640,000 customers (a few of them very busy), some multi-line and emoji texts."""
    generator = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(generator.choice(letters, size)) for size in generator.integers(2, 9, 20_000)]
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(HEADER)
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            inbound = generator.random(count) < 0.55
            busy = generator.random(count) < 0.01
            customers = np.where(busy, generator.integers(0, 30, count), generator.integers(30, 640_000, count))
            brands = generator.integers(0, 108, count)
            lengths = generator.integers(6, 31, count)
            extras = generator.integers(0, len(EXTRAS), count)
            picks = generator.integers(0, len(words), int(lengths.sum()))
            begins = np.cumsum(lengths) - lengths
            for i in range(count):
                text = " ".join([words[w] for w in picks[begins[i] : begins[i] + lengths[i]]])
                author = 115_000 + customers[i] if inbound[i] else f"Brand{brands[i]}"
                # Conversations of four tweets.
                parent = f"{start + i - 1}.0" if (start + i) % 4 else ""
                file.write(
                    f'{start + i},{author},{inbound[i]},Tue Oct 31 22:10:47 +0000 2017,"@{brands[i]} {text}'
                    f'{EXTRAS[extras[i]]}",{start + i + 1},{parent}\n'
                )


def measure(path: Path, out: Path, method: str, num_clients: int) -> dict[str, object]:
    """Run the data path in this process and say what it took."""
    from fedmq.data.dataset import FederatedDataset
    from fedmq.data.prepare import partition_inputs, prepare_partition
    from fedmq.data.shards import TokenizerInfo
    from fedmq.recipe import DataSpec

    def encode(texts: list[str]) -> list[np.ndarray]:
        return [np.append(np.frombuffer(text.encode()[:127], np.uint8).astype(np.int64), 256) for text in texts]

    tokenizer = TokenizerInfo(digest="bytes", eos_token_id=256, vocab_size=257, max_length=128)
    data = DataSpec("text", "author_id", 0.8, 0.1, 0.1, filter_min_length=10, filter_inbound_only=True)
    marks = {"imports": (time.perf_counter(), peak_bytes())}
    dataset = FederatedDataset(path, data, seed=42)
    marks["read_and_split"] = (time.perf_counter(), peak_bytes())
    clients = dataset.partition(method, num_clients, min_samples_per_client=1)
    marks["partition"] = (time.perf_counter(), peak_bytes())
    inputs = partition_inputs(path, data, 42, method, num_clients, 1, {}, tokenizer)
    marks["digest_of_inputs"] = (time.perf_counter(), peak_bytes())
    statistics = prepare_partition(dataset, clients, encode, tokenizer, out, inputs=inputs)
    marks["tokenise_and_write"] = (time.perf_counter(), peak_bytes())
    steps = list(marks.items())
    return {
        "rows_read": statistics["rows_read"],
        "rows_kept": statistics["rows_kept"],
        "train_rows_used": statistics["train_rows_used"],
        "authors": statistics["authors"],
        "seconds": {name: round(at - steps[i][1][0], 2) for i, (name, (at, _)) in enumerate(steps[1:])},
        "peak_mib_after": {name: peak // 2**20 for name, (_, peak) in steps},
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """Peak resident memory of this process; ru_maxrss is in KiB on Linux and in bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=FULL_ROWS)
    parser.add_argument("--method", choices=["iid", "non_iid", "by_author", "by_brand"], default="by_author")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--child", nargs=2, metavar=("CSV", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        csv, out = map(Path, arguments.child)
        print(json.dumps(measure(csv, out, arguments.method, arguments.clients)))
        return
    with tempfile.TemporaryDirectory() as folder:
        csv = Path(folder, "tweets.csv")
        generate(csv, arguments.rows)
        command = [sys.executable, __file__, "--method", arguments.method, "--clients", str(arguments.clients)]
        repo = str(Path(__file__).resolve().parent.parent)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([repo, os.environ.get("PYTHONPATH", "")])}
        child = subprocess.run(
            [*command, "--child", str(csv), str(Path(folder, "shards"))],
            check=True,
            stdout=subprocess.PIPE,
            env=environment,
        )
        result = {"method": arguments.method, "clients": arguments.clients, "csv_bytes": csv.stat().st_size}
        result |= json.loads(child.stdout)
    if arguments.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key}: {value}")


if __name__ == "__main__":
    main()
