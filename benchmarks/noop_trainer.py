"""A trainer that computes nothing: for measuring and testing everything around training, without torch.

It speaks the trainer's side of the pipe and answers at once with an adapter of random numbers, made
when it starts, whose last number comes from the task's seed, as does the loss: every answer has other bytes, at no
cost. The environment variable FEDMQ_NOOP holds a JSON object:

    clients    ids that it hosts (default: client_0 and client_1)
    shape      of each of two tensors; without it, those of GPT-2 small: c_attn and c_proj, r = 8, 811,008 in all
    gates      {client: path of a FIFO}: training of that client waits until the FIFO was opened for writing and closed
    seconds    {client: how long training of that client takes} (default: no time)
    told       path of a file to which a line is added when a training begins: the time in seconds since 1970, the task
    durable    whether an update is on disk before it is told of, as a real trainer's is (default: false)
    evaluates  whether it has a test shard (default: true)
    fails      {client: [text, ...]}: each attempt at that client takes and fails with the next text of this process

Where the run's updates travel in a codec, an answer is the adapter that came with numbers of the task's seed added,
packed as a real trainer does it: encoded, with what the client remembers.

Clients that it is to train together are answered for one after another, and their adapters hold what company they
were in: trained in another one, a client gets another adapter, as with numbers that are rounded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import struct
import sys
import time
import zlib
from functools import cache
from pathlib import Path

import numpy as np

from fedmq import atomic
from fedmq.atomic import disk_failures
from fedmq.codec import raw
from fedmq.codec.update import update_codec
from fedmq.errors import StorageError
from fedmq.protocol import trainer_link as link
from fedmq.protocol.messages import HostedClient, Task
from fedmq.runtime.client_states import ClientStates
from fedmq.runtime.packing import pack
from fedmq.runtime.pipe import Pipe, PipeClosed

CLIENTS = ["client_0", "client_1"]
#: module -> width in, width out
GPT2 = {"attn.c_attn": (768, 2304), "attn.c_proj": (768, 768), "mlp.c_proj": (3072, 768)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--read-fd", type=int)
    parser.add_argument("--write-fd", type=int)
    parser.add_argument("--num-threads", type=int)
    arguments = parser.parse_args()
    options = json.loads(os.environ.get("FEDMQ_NOOP", "{}"))
    pipe = Pipe(arguments.read_fd, arguments.write_fd, link.TO_TRAINER, link.TO_AGENT)
    setup: link.Setup | None = None
    while True:
        try:
            messages = pipe.receive()
        except PipeClosed:
            sys.exit(0)
        for message in messages:
            if isinstance(message, link.Setup):
                setup = message
                pipe.send(loaded(options))
            elif isinstance(message, link.Begin):
                assert setup is not None
                try:
                    with disk_failures(Path.cwd()):
                        for task, result in zip(message.tasks, message.results, strict=True):
                            pipe.send(answer(task, result, message, setup, options))
                except StorageError as error:
                    pipe.send(link.Failed(None, "ERROR", str(error)))


def loaded(options: dict) -> link.Loaded:
    clients = options.get("clients", CLIENTS)
    hosted = tuple(HostedClient(name, num_examples(name), 100, 0, "0" * 64) for name in sorted(clients))
    return link.Loaded(hosted, options.get("evaluates", True), "0" * 64, 0, 0, "cpu")


def answer(task: Task, result: str, begin: link.Begin, setup: link.Setup, options: dict) -> object:
    group = begin.tasks
    match task.work.kind:
        case "init":
            return trained(task, result, group, options, 0, json.dumps({"peft_type": "LORA"}))
        case "train":
            if "told" in options:
                with open(options["told"], "a") as told:
                    print(time.time(), task.task, file=told)
            time.sleep(options.get("seconds", {}).get(task.client, 0.0))
            if task.client in options.get("gates", {}):
                Path(options["gates"][task.client]).read_bytes()
            if options.get("fails", {}).get(task.client):
                return link.Failed(task.task, "ERROR", options["fails"][task.client].pop(0))
            if setup.spec.upload.name != "fp32":
                return packed(task, result, begin, setup)
            return trained(task, result, group, options, num_examples(task.client), "")
        case "evaluate":
            return link.Scored(task.task, 100.0 / (1 + task.round), 50, 5, 0.0)
    return link.Texts(task.task, tuple("..." for _ in task.work.generation.prompts))


def num_examples(client: str) -> int:
    """10 to 99, whoever hosts it."""
    return 10 + zlib.crc32(client.encode()) % 90


@cache
def template(shape: tuple[int, ...] | None) -> bytes:
    """An adapter as safetensors bytes; the file ends with the numbers of its last tensor."""
    shapes: dict[str, tuple[int, ...]] = {}
    if shape is not None:
        shapes = {f"base_model.model.lora_{factor}.weight": shape for factor in "AB"}
    else:
        for layer in range(12):
            for module, (d_in, d_out) in GPT2.items():
                prefix = f"base_model.model.transformer.h.{layer}.{module}"
                shapes |= {f"{prefix}.lora_A.weight": (8, d_in), f"{prefix}.lora_B.weight": (d_out, 8)}
    rng = np.random.default_rng(0)
    return raw.encode({name: rng.standard_normal(size, dtype=np.float32) for name, size in shapes.items()})


def trained(
    task: Task, result: str, group: tuple[Task, ...], options: dict, examples: int, config: str
) -> link.Trained:
    shape = options.get("shape")
    content = bytearray(template(None if shape is None else tuple(shape)))
    content[-4:] = struct.pack("<f", task.seed / 2**53)
    if len(group) > 1:
        company = zlib.crc32(repr([member.client for member in group]).encode())
        content[-8:-4] = struct.pack("<f", company / 2**32)
    if options.get("durable"):
        atomic.write_bytes(Path(result), bytes(content))
    else:
        Path(result).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    loss = 1 + task.seed / 2**53
    return link.Trained(task.task, digest, len(content), examples, 10 * examples, 1, loss, 0.0, config, False)


def packed(task: Task, result: str, begin: link.Begin, setup: link.Setup) -> link.Trained:
    content = Path(begin.adapter).read_bytes()
    base = raw.decode(content, raw.read_spec(content))
    rng = np.random.default_rng([task.seed, zlib.crc32(repr([member.client for member in begin.tasks]).encode())])
    local = {name: (value + rng.normal(0, 1e-3, value.shape)).astype(np.float32) for name, value in base.items()}
    codec = update_codec(setup.spec.upload)
    digest, nbytes, lost = pack(task, local, base, {}, codec, ClientStates(Path(setup.state_dir)), Path(result))
    examples = num_examples(task.client)
    return link.Trained(task.task, digest, nbytes, examples, 10 * examples, 1, 1.0, 0.0, "", lost)


if __name__ == "__main__":
    main()
