"""The trainer: the child process of a worker that holds the base, the data and the device.

It does one group of tasks after another for its agent, over a pair of pipes, and ends with its agent. It may
be killed at any time: nothing that matters is only here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fedmq import atomic
from fedmq.algorithms.personal import shared_part
from fedmq.codec import raw
from fedmq.codec.base_link import BaseLink
from fedmq.codec.update import UpdateCodec, update_codec
from fedmq.errors import ConfigError, DataError, FedmqError, LocalProtocolError, StorageError
from fedmq.learning.client import train_clients
from fedmq.learning.devices import resolve_device
from fedmq.learning.generate import encode_prompts, generate
from fedmq.learning.models import LanguageModel
from fedmq.learning.outcome import out_of_memory
from fedmq.learning.precision import require_precision
from fedmq.learning.train import Diverged, Stopped, remembers
from fedmq.protocol import trainer_link as link
from fedmq.protocol.fields import FailureCode
from fedmq.protocol.messages import Task
from fedmq.protocol.work import EvaluateWork, GenerateWork, InitWork, TrainWork
from fedmq.recipe import Shared, TrainingRecipe
from fedmq.runtime.base_links import Chain
from fedmq.runtime.client_states import ClientStates
from fedmq.runtime.control import parted
from fedmq.runtime.hosting import Hosted, evaluate_unit, host
from fedmq.runtime.own_models import OwnModels
from fedmq.runtime.packing import memory_of, pack, start_of
from fedmq.runtime.pipe import Pipe, PipeClosed
from fedmq.tensors import NamedTensors

log = logging.getLogger("fedmq.trainer")
_STEP_EVERY_S = 0.2


class Trainer:
    """One base, the worker's clients, one group of tasks at a time."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._inbox: queue.Queue[Any] = queue.Queue()
        self._halt = threading.Event()
        self._model: LanguageModel | None = None
        self._hosted: Hosted | None = None
        self._codec: UpdateCodec | None = None
        self._chain = Chain()
        self._states = ClientStates(Path())
        self._own = OwnModels(Path(), self._states)
        self._shared: Shared = "both"
        self._work_dir = Path()
        self._next_step_at = 0.0
        #: tasks that the agent still waits for an answer to; None stands for Setup
        self._open: list[str | None] = []
        threading.Thread(target=self._listen, name="agent", daemon=True).start()

    def run(self) -> None:
        """Serve until the agent is gone."""
        while True:
            message = self._inbox.get()
            try:
                with atomic.disk_failures(self._work_dir):
                    if isinstance(message, link.Setup):
                        self._open, self._work_dir = [None], Path(message.work_dir)
                        self._pipe.send(self._setup(message))
                    else:
                        self._open = [task.task for task in message.tasks]
                        self._answer(message)
            except Stopped:
                self._fail("CANCELLED", "on request")
            except Diverged as error:
                self._fail("NONFINITE", str(error))
            except ConfigError as error:
                self._fail("DATA" if isinstance(error, DataError) else "MODEL", str(error))
            except StorageError as error:
                # Whatever this worker is given next would fail as well: it ends.
                self._open = [None]
                self._fail("ERROR", str(error))
            except FedmqError as error:
                self._fail("ERROR", str(error))
            except Exception as error:
                if out_of_memory(error):
                    self._fail("OOM", f"out of memory: {error}")
                    continue
                # A fault of one task must not end the worker: it is reported, and the task tried elsewhere.
                log.exception("task failed")
                self._fail("ERROR", f"{type(error).__name__}: {error}")

    def _listen(self) -> None:
        code = 1
        try:
            while True:
                for message in self._pipe.receive():
                    if isinstance(message, link.Halt):
                        self._halt.set()
                    else:
                        self._halt.clear()
                        self._inbox.put(message)
        except (PipeClosed, OSError):
            # The agent is gone, and with it whoever wants the result; nothing else interrupts a step in torch.
            code = 0
        except Exception:
            # Without memory for a message, say: a trainer that hears nothing would be waited for in vain.
            log.exception("cannot hear the agent")
        finally:
            os._exit(code)

    def _fail(self, code: FailureCode, text: str) -> None:
        """Whatever is not answered for has failed."""
        log.warning("failed: %s: %s", code, text)
        for task in self._open:
            self._pipe.send(_failed(task, code, text))

    def _setup(self, setup: link.Setup) -> link.Loaded:
        device, note = resolve_device(setup.device)
        run = setup.spec
        # What cannot work on this device or base ends the worker here, in one line; in a task it would be tried again.
        precision = require_precision(run.training, device)
        self._codec = update_codec(run.upload)
        self._shared = run.training.shared
        self._states = ClientStates(Path(setup.state_dir), spare=self._shared != "both")
        self._own = OwnModels(Path(setup.personal_dir), self._states)
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
            engine=run.training.engine,
            precision=precision,
        )
        self._model.keep_trunks(Path(setup.work_dir) / "trunks", self._on_text)
        log.info("%s", self._model.engine_note)
        encode_prompts(self._model, run.generation.prompts, run.generation.max_new_tokens)
        log_dir = None if setup.log_dir is None else Path(setup.log_dir)
        self._hosted = host(setup.sources, self._model, run, Path(setup.work_dir), log_dir)
        return link.Loaded(
            clients=self._hosted.announced,
            evaluates_test=self._hosted.test is not None,
            base_digest=self._model.base_digest,
            num_trainable=self._model.num_trainable,
            num_parameters=self._model.num_parameters,
            device=f"{device} ({'; '.join(filter(None, (note, self._model.engine_note)))})",
        )

    def _answer(self, begin: link.Begin) -> None:
        if self._model is None or self._hosted is None:
            raise LocalProtocolError("a task before Setup")
        base: NamedTensors = {}
        control: NamedTensors = {}
        if begin.adapter is not None:
            initial = self._model.initial_adapter()
            base, control = parted(Path(begin.adapter).read_bytes(), shared_part(initial, self._shared))
            self._model.set_adapter({**initial, **base})
            links = self._chain.up_to(begin.merged)
            self._model.grow(links, lambda path: BaseLink.decoded(Path(path).read_bytes()).factors)
        log.info("%s begun", ", ".join(task.task for task in begin.tasks))
        work = begin.tasks[0].work
        if isinstance(work, TrainWork):
            answers = self._train(begin, base, control, self._hosted, work.recipe)
        else:
            answers = iter([self._do(begin.tasks[0], begin.results[0], self._model, self._hosted)])
        for answer in answers:
            self._open.remove(answer.task)
            self._pipe.send(answer)

    def _train(
        self, begin: link.Begin, base: NamedTensors, control: NamedTensors, hosted: Hosted, recipe: TrainingRecipe
    ) -> Iterator[link.Trained | link.Failed]:
        """Train the clients of a group together; an answer for each."""
        assert self._codec is not None and self._model is not None
        outcomes = train_clients(
            [hosted.clients[task.client or ""] for task in begin.tasks],
            recipe,
            seeds=[task.seed for task in begin.tasks],
            round=begin.tasks[0].round,
            memories=[
                {**control, **memory_of(task, self._states)} if remembers(recipe) else {} for task in begin.tasks
            ],
            starts=[start_of(task, self._model.get_adapter()) for task in begin.tasks],
            on_step=self._on_step,
            stopping=self._halt.is_set,
        )
        for task, path, outcome in zip(begin.tasks, begin.results, outcomes, strict=True):
            if isinstance(outcome, Diverged):
                log.warning("%s failed: %s", task.task, outcome)
                yield _failed(task.task, "NONFINITE", str(outcome))
                continue
            result, adapter = outcome
            log.info(
                "%s finished: round %d, %s, %d steps, %d examples, loss %.4f, %.1f s",
                *(task.task, task.round, task.client, result.num_steps, result.num_examples),
                *(result.train_loss, result.train_seconds),
            )
            update = shared_part(adapter, self._shared)
            packed = pack(task, update, base, result.memory, self._codec, self._states, Path(path))
            yield link.Trained(
                task.task,
                packed.digest,
                packed.nbytes,
                result.num_examples,
                result.num_tokens,
                result.num_steps,
                result.train_loss,
                result.train_seconds,
                "",
                packed.state_lost,
            )

    def _do(self, task: Task, path: str, model: LanguageModel, hosted: Hosted) -> Any:
        """Whatever else there is to do."""
        started = time.monotonic()
        match task.work:
            case InitWork():
                config = json.dumps(model.adapter_config(), indent=2)
                blob = self._write(path, shared_part(model.initial_adapter(), self._shared))
                return link.Trained(task.task, *blob, 0, 0, 0, 0.0, 0.0, config, False)
            case EvaluateWork(_, unit, batch_size):
                if self._shared != "both":
                    self._own.put_on(task, model)
                score = evaluate_unit(hosted, model, unit, batch_size, self._on_step)
                if not math.isfinite(score.loss_sum):
                    raise Diverged(f"the evaluation loss is {score.loss_sum}: training diverged")
                seconds = time.monotonic() - started
                log.info("%s finished: %s, loss %.4f, %.1f s", task.task, unit, score.eval_loss, seconds)
                return link.Scored(task.task, score.loss_sum, score.num_tokens, score.num_examples, seconds)
            case GenerateWork(_, generation):
                texts = generate(
                    model,
                    generation.prompts,
                    max_new_tokens=generation.max_new_tokens,
                    temperature=generation.temperature,
                    seed=task.seed,
                )
                log.info("%s finished: %d texts, %.1f s", task.task, len(texts), time.monotonic() - started)
                return link.Texts(task.task, tuple(texts))
        raise LocalProtocolError(f"unknown work {task.work!r}")

    def _write(self, path: str, adapter: dict[str, Any]) -> tuple[str, int]:
        content = raw.encode(adapter)
        atomic.write_bytes(Path(path), content)
        return hashlib.sha256(content).hexdigest(), len(content)

    def _on_step(self, step: int, total_steps: int) -> None:
        now = time.monotonic()
        if now >= self._next_step_at or step == total_steps:
            self._next_step_at = now + _STEP_EVERY_S
            self._pipe.send(link.Stepped(step, total_steps))

    def _on_text(self, done: int, total: int) -> None:
        """A frozen layer's cache is being filled: that is progress too, and may be stopped."""
        self._on_step(done, total)
        if self._halt.is_set():
            raise Stopped


def _failed(task: str | None, code: FailureCode, text: str) -> link.Failed:
    return link.Failed(task, code, " ".join(text.split())[:1000])


def serve(pipe: Pipe, num_threads: int) -> None:
    """Be the trainer of the agent at the other end of the pipes, on so many CPU threads, until it is gone."""
    torch.set_num_threads(num_threads)
    torch.set_num_interop_threads(1)
    Trainer(pipe).run()
