"""A FederatedServer on a temporary folder, and updates to give it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from fedmq.algorithms import aggregate, sampling, server_opt, staleness, weighting
from fedmq.codec import raw
from fedmq.codec.download import download_codec
from fedmq.codec.update import update_codec
from fedmq.protocol import messages as m
from fedmq.recipe import CodecSpec
from fedmq.runtime.screening import UpdateLimits
from fedmq.runtime.selection import ClientSelection
from fedmq.runtime.server import FederatedServer
from fedmq.runtime.uploads import Uploads
from fedmq.storage.hosted import Hosted
from fedmq.storage.journal import Journal

CONFIG = '{\n  "peft_type": "LORA"\n}'
NONCE = "cd" * 16
#: what the clients of `started` announced
HOSTED = {f"client_{k}": ("w1",) for k in range(20)}


def uploads(name: str) -> Uploads:
    """Of whole adapters, in a codec with its defaults."""
    return Uploads(update_codec(CodecSpec(name, None, None, None)), lambda round: "both", {})


def adapter(seed: int) -> dict[str, np.ndarray]:
    """An adapter of two float32 tensors."""
    draw = np.random.default_rng(seed)
    return {
        "h.0.attn.lora_A.weight": draw.normal(size=(4, 6)).astype(np.float32),
        "h.0.attn.lora_B.weight": draw.normal(size=(5, 4)).astype(np.float32),
    }


def offer(task: str, content: bytes, **fields: Any) -> m.Offer:
    """The offer of an adapter file."""
    values: dict[str, Any] = {
        "task": task,
        "nonce": NONCE,
        "blob": m.BlobRef(hashlib.sha256(content).hexdigest(), len(content)),
        "num_examples": 10,
        "num_tokens": 100,
        "num_steps": 5,
        "train_loss": 2.5,
        "train_seconds": 1.0,
        "nbytes_down": 0,
        "adapter_config": CONFIG if task.startswith("init") else "",
        "state_lost": False,
    }
    return m.Offer(**values | fields)


def make_server(folder: Path, **options: Any) -> FederatedServer:
    """A server on `folder`: a new run, or the one that is there."""
    folder.mkdir(exist_ok=True)
    path = folder / "run.db"
    journal = Journal.open(path) if path.is_file() else Journal.create(path, {"config": "{}"})
    sampler, seed = options.pop("sampler", sampling.uniform()), options.pop("seed", 42)
    weigh = options.get("weighting", weighting.by_examples)
    values: dict[str, Any] = {
        "aggregator": aggregate.fedavg(),
        "server_optimizer": server_opt.none(),
        "selection": ClientSelection(journal, sampler, weigh, seed, "of the test"),
        "weighting": weigh,
        "uploads": uploads("fp32"),
        "download": download_codec(CodecSpec("fp32", None, None, None)),
        "discount": staleness.polynomial(),
        "limits": UpdateLimits(max_norm=None, max_tokens_per_example=128),
        "num_rounds": 4,
        "save_every": 2,
        "save_client_adapters": True,
    }
    return FederatedServer(folder, journal, **values | options)


def started(folder: Path, first: dict[str, np.ndarray] | None = None, **options: Any) -> FederatedServer:
    """A server that has a first adapter, and the clients of HOSTED."""
    server = make_server(folder, **options)
    hosted = {Hosted.key(client): Hosted(1000, 25_000, workers).encoded() for client, workers in HOSTED.items()}
    server.journal.put(**hosted)
    content = raw.encode(adapter(0) if first is None else first)
    server.start(offer("init-0-adapter-0", content), content)
    return server


def give(server: FederatedServer, task: str, tensors: dict[str, np.ndarray], **fields: Any) -> m.Offer:
    """Bring an update as the coordinator does: stored, checked, accepted."""
    return bring(server, task, raw.encode(tensors), **fields)


def bring(server: FederatedServer, task: str, content: bytes, **fields: Any) -> m.Offer:
    """The same with the update's bytes, in whatever codec."""
    update = offer(task, content, **fields)
    server.blobs.add(content)
    server.accept(update, "w0", len(content), server.check(update, content).norm)
    return update
