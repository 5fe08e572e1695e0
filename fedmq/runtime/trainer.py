"""The trainer: the child process of a worker that holds the base, the data and the device.

It does one task after another for its agent, over a pair of pipes, and ends with its agent. It may
be killed at any time: nothing that matters is only here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import queue
import threading
import time
from pathlib import Path
from typing import Any

import torch

from fedmq import atomic
from fedmq.codec import raw
from fedmq.errors import ConfigError, DataError, FedmqError, LocalProtocolError
from fedmq.learning.generate import encode_prompts, generate
from fedmq.learning.models import LanguageModel, resolve_device
from fedmq.learning.train import Stopped, require_precision
from fedmq.protocol import trainer_link as link
from fedmq.protocol.fields import FailureCode
from fedmq.protocol.work import EvaluateWork, GenerateWork, InitWork, TrainWork
from fedmq.runtime.hosting import Hosted, evaluate_unit, host
from fedmq.runtime.pipe import Pipe, PipeClosed
from fedmq.tensors import spec

log = logging.getLogger("fedmq.trainer")
_STEP_EVERY_S = 0.2


class Trainer:
    """One base, the worker's clients, one task at a time."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._inbox: queue.Queue[Any] = queue.Queue()
        self._halt = threading.Event()
        self._model: LanguageModel | None = None
        self._hosted: Hosted | None = None
        self._next_step_at = 0.0
        threading.Thread(target=self._listen, name="agent", daemon=True).start()

    def run(self) -> None:
        """Serve until the agent is gone."""
        while True:
            message = self._inbox.get()
            try:
                self._pipe.send(self._setup(message) if isinstance(message, link.Setup) else self._task(message))
            except Stopped:
                self._fail("CANCELLED", "on request")
            except ConfigError as error:
                code: FailureCode = "DATA" if isinstance(error, DataError) else "MODEL"
                self._fail(code, str(error), fatal=isinstance(message, link.Setup))
            except FedmqError as error:
                self._fail("ERROR", str(error), fatal=isinstance(message, link.Setup))
            except (MemoryError, torch.OutOfMemoryError) as error:
                self._fail("OOM", f"out of memory: {error}", fatal=isinstance(message, link.Setup))
            except _Diverged as error:
                self._fail("NONFINITE", str(error))
            except Exception as error:
                # A fault of one task must not end the worker: it is reported, and the task tried elsewhere.
                log.exception("task failed")
                self._fail("ERROR", f"{type(error).__name__}: {error}", fatal=isinstance(message, link.Setup))

    def _listen(self) -> None:
        while True:
            try:
                messages = self._pipe.receive()
            except (PipeClosed, OSError):
                # The agent is gone, and with it whoever wants the result; nothing else interrupts a step in torch.
                os._exit(0)
            for message in messages:
                if isinstance(message, link.Halt):
                    self._halt.set()
                else:
                    self._halt.clear()
                    self._inbox.put(message)

    def _fail(self, code: FailureCode, text: str, fatal: bool = False) -> None:
        log.warning("failed: %s: %s", code, text)
        self._pipe.send(link.Failed(code, " ".join(text.split())[:1000], fatal))

    def _setup(self, setup: link.Setup) -> link.Loaded:
        device, note = resolve_device(setup.device)
        run = setup.spec
        # What cannot work on this device or base ends the worker here, in one line; in a task it would be tried again.
        require_precision(run.training, device)
        if run.training.num_threads is not None:
            torch.set_num_threads(run.training.num_threads)
        self._model = LanguageModel.load(
            setup.model or run.model.name,
            run.lora,
            max_length=run.model.max_length,
            seed=run.seed,
            device=device,
            cache_dir=setup.cache_dir,
            known_as=run.model.name,
        )
        encode_prompts(self._model, run.generation.prompts, run.generation.max_new_tokens)
        log_dir = None if setup.log_dir is None else Path(setup.log_dir)
        self._hosted = host(setup.sources, self._model, run, Path(setup.work_dir), log_dir)
        return link.Loaded(
            clients=self._hosted.announced,
            evaluates_test=self._hosted.test is not None,
            base_digest=self._model.base_digest,
            num_trainable=self._model.num_trainable,
            num_parameters=self._model.num_parameters,
            device=device if note is None else f"{device} ({note})",
        )

    def _task(self, begin: link.Begin) -> Any:
        if self._model is None or self._hosted is None:
            raise LocalProtocolError("a task before Setup")
        task, work = begin.task, begin.task.work
        if begin.adapter is not None:
            content = Path(begin.adapter).read_bytes()
            self._model.set_adapter(raw.decode(content, spec(self._model.initial_adapter())))
        started = time.monotonic()
        log.info("%s begun", task.task)
        match work:
            case InitWork():
                config = json.dumps(self._model.adapter_config(), indent=2)
                blob = self._write(begin.result, self._model.initial_adapter())
                return link.Trained(task.task, *blob, 0, 0, 0, 0.0, 0.0, config)
            case TrainWork(_, recipe):
                client = self._hosted.clients[task.client or ""]
                result = client.train(
                    recipe, seed=task.seed, round=task.round, on_step=self._on_step, stopping=self._halt.is_set
                )
                log.info(
                    "%s finished: round %d, %s, %d steps, %d examples, loss %.4f, %.1f s",
                    *(task.task, task.round, task.client, result.num_steps, result.num_examples),
                    *(result.train_loss, result.train_seconds),
                )
                _require_finite(result.train_loss, "training")
                blob = self._write(begin.result, self._model.get_adapter())
                return link.Trained(
                    task.task,
                    *blob,
                    result.num_examples,
                    result.num_tokens,
                    result.num_steps,
                    result.train_loss,
                    result.train_seconds,
                    "",
                )
            case EvaluateWork(_, unit, batch_size):
                score = evaluate_unit(self._hosted, self._model, unit, batch_size, self._on_step)
                _require_finite(score.loss_sum, "evaluation")
                seconds = time.monotonic() - started
                log.info("%s finished: %s, loss %.4f, %.1f s", task.task, unit, score.eval_loss, seconds)
                return link.Scored(task.task, score.loss_sum, score.num_tokens, score.num_examples, seconds)
            case GenerateWork(_, generation):
                texts = generate(
                    self._model,
                    generation.prompts,
                    max_new_tokens=generation.max_new_tokens,
                    temperature=generation.temperature,
                    seed=task.seed,
                )
                log.info("%s finished: %d texts, %.1f s", task.task, len(texts), time.monotonic() - started)
                return link.Texts(task.task, tuple(texts))
        raise LocalProtocolError(f"unknown work {work!r}")

    def _write(self, path: str, adapter: dict[str, Any]) -> tuple[str, int]:
        content = raw.encode(adapter)
        atomic.write_bytes(Path(path), content)
        return hashlib.sha256(content).hexdigest(), len(content)

    def _on_step(self, step: int, total_steps: int) -> None:
        now = time.monotonic()
        if now >= self._next_step_at or step == total_steps:
            self._next_step_at = now + _STEP_EVERY_S
            self._pipe.send(link.Stepped(step, total_steps))


class _Diverged(Exception):
    """A loss that is not a number."""


def _require_finite(loss: float, what: str) -> None:
    if not math.isfinite(loss):
        raise _Diverged(f"the {what} loss is {loss}: training diverged; lower training.learning_rate")


def main() -> None:
    """Entry point of the child process: two descriptors and the number of threads."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--read-fd", type=int, required=True)
    parser.add_argument("--write-fd", type=int, required=True)
    parser.add_argument("--num-threads", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    torch.set_num_threads(arguments.num_threads)
    torch.set_num_interop_threads(1)
    Trainer(Pipe(arguments.read_fd, arguments.write_fd, link.TO_TRAINER, link.TO_AGENT)).run()


if __name__ == "__main__":
    main()
