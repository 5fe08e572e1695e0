"""A few real steps: as many trainers as the run has workers, each on a client of the run, timed at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fedmq.errors import ConfigError, RunError
from fedmq.protocol import messages as m
from fedmq.protocol import trainer_link as link
from fedmq.protocol.work import EvaluateWork, GenerateWork, InitWork, TrainWork
from fedmq.recipe import Factors, Part, RunSpec
from fedmq.runtime.child import TRAINER, TrainerProcess
from fedmq.runtime.pipe import PipeClosed

#: What the timed training is to take, about: longer is more exact.
_AIM_S = 3.0
#: Optimiser steps of the trainings from which its length follows.
_WARM_STEPS, _FIRST_STEPS = 1, 4
_NO_STEPS = 10**9
_TOKENS_GENERATED = 8


class Calibration(NamedTuple):
    """What was measured. Times are of the slowest trainer, seconds.

    Attributes:
      loaded: what a trainer said when base and data were there.
      load_s: from its start to that.
      adapter: bytes of the first adapter.
      update: of a client's short training, encoded; `client` is whose.
      per_training_s, per_token_s: a training of a group takes the one, and the other for each target of it.
      score_per_token_s: evaluation.
      per_generated_s: all prompts, for each token that is made.
      steps, seconds: of the trainings that were timed.
      trainer_nbytes: peak memory of a trainer; None where this system does not say.
    """

    loaded: link.Loaded
    load_s: float
    adapter: bytes
    update: bytes
    client: str
    per_training_s: float
    per_token_s: float
    score_per_token_s: float
    per_generated_s: float
    steps: int
    seconds: float
    trainer_nbytes: int | None


class _Timed(NamedTuple):
    seconds: float
    num_tokens: int
    num_steps: int


class _Trainer:
    """One trainer process, and what it was given."""

    def __init__(self, number: int, setup: link.Setup, num_threads: int) -> None:
        folder = Path(setup.work_dir) / f"trainer_{number}"
        folder.mkdir()
        self.setup = replace(setup, work_dir=str(folder), state_dir=str(folder / "states"))
        self.log = folder / "trainer.log"
        self._started, self._process = time.monotonic(), TrainerProcess(TRAINER, num_threads, self.log)
        self.loaded: link.Loaded | None = None
        self.load_s = 0.0

    def load(self) -> None:
        (self.loaded,) = self._ask(self.setup, 1)
        self.load_s = time.monotonic() - self._started

    def do(self, tasks: Sequence[m.Task], adapter: Path | None, results: Sequence[Path]) -> list[Any]:
        paths = tuple(map(str, results)) or ("",) * len(tasks)
        return self._ask(link.Begin(tuple(tasks), None if adapter is None else str(adapter), None, paths), len(tasks))

    def peak_nbytes(self) -> int | None:
        try:
            lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)

    def end(self) -> None:
        self._process.end()

    def _ask(self, message: Any, count: int) -> list[Any]:
        self._process.send(message)
        answers: list[Any] = []
        try:
            while len(answers) < count:
                for answer in self._process.receive():
                    if isinstance(answer, link.Failed):
                        setup = answer.code in ("DATA", "MODEL") or isinstance(message, link.Setup)
                        raise (ConfigError if setup else RunError)(f"a few steps of this run failed: {answer.text}")
                    if not isinstance(answer, link.Stepped):
                        answers.append(answer)
        except PipeClosed:
            said = self.log.read_text(errors="replace").strip().splitlines()
            last = said[-1] if said else "without a word"
            raise RunError(f"a few steps of this run failed: the trainer {self._process.end()} ({last})") from None
        return answers


def calibrate(
    setup: link.Setup,
    groups: Sequence[tuple[str, ...]],
    trained: Factors,
    parts: dict[str, Part],
    num_threads: int,
    batch: int,
) -> Calibration:
    """Measure. Everything that is written goes to `setup.work_dir`.

    Args:
      setup: the shards of all clients, and of texts to be scored.
      groups: for each trainer, the clients that it trains together.
      trained: the factors that are, in round 1.
      parts: what of an adapter each client trains and sends.
      num_threads: of each trainer.
      batch: examples of one optimiser step.

    Raises:
      ConfigError: the base or the data cannot be used.
      RunError: a training failed, or its process ended.
    """
    work = Path(setup.work_dir)
    trainers = [_Trainer(k, setup, num_threads) for k in range(len(groups))]
    try:
        with ThreadPoolExecutor(len(trainers)) as pool:
            list(pool.map(_Trainer.load, trainers))
            first, adapter = trainers[0], work / "adapter"
            first.do([_task("init-0-adapter-0", InitWork("init"), 0)], None, [adapter])
            # All train at once, as they will: they share cores, caches and memory.
            together = threading.Barrier(len(trainers))

            def train(k: int) -> list[_Timed]:
                try:
                    return _train(trainers[k], groups[k], trained, parts, batch, adapter, together)
                except BaseException:
                    together.abort()
                    raise

            futures = [pool.submit(train, k) for k in range(len(trainers))]
            failed = [error for future in futures if (error := future.exception()) is not None]
            if failed:
                raise next((e for e in failed if not isinstance(e, threading.BrokenBarrierError)), failed[0])
            timed = [future.result() for future in futures]
        slope, constant = max(_fit(*each) for each in timed)
        assert first.loaded is not None
        unit = "test" if first.loaded.evaluates_test else first.loaded.clients[0].client
        scoring = EvaluateWork("evaluate", unit, setup.spec.training.batch_size)
        client = None if unit == "test" else unit
        (score,) = first.do([_task(f"evaluate-0-{unit}-0", scoring, 0, client)], adapter, [])
        peaks = [peak for trainer in trainers if (peak := trainer.peak_nbytes()) is not None]
        return Calibration(
            first.loaded,
            max(trainer.load_s for trainer in trainers),
            adapter.read_bytes(),
            _result(first, groups[0][0]).read_bytes(),
            groups[0][0],
            constant,
            slope,
            score.seconds / max(1, score.num_tokens),
            _generated_s(first, setup.spec, adapter),
            sum(part.num_steps for each in timed for part in each),
            max(sum(part.seconds for part in each) for each in timed),
            max(peaks, default=None),
        )
    finally:
        for trainer in trainers:
            trainer.end()


def _train(
    trainer: _Trainer,
    group: tuple[str, ...],
    trained: Factors,
    parts: dict[str, Part],
    batch: int,
    adapter: Path,
    together: threading.Barrier,
) -> list[_Timed]:
    """A training that warms up, a short one, and one that takes long enough."""

    def once(steps: int) -> _Timed:
        recipe = replace(
            trainer.setup.spec.training,
            factors=trained,
            max_samples_per_client=steps * batch,
            num_epochs=1,
            warmup_steps=0,
            eval_steps=_NO_STEPS,
            save_steps=_NO_STEPS,
        )
        tasks = [_task(f"train-1-{c}-0", TrainWork("train", recipe, parts[c]), 1, c) for c in group]
        started = time.monotonic()
        answers = trainer.do(tasks, adapter, [_result(trainer, client) for client in group])
        seconds = time.monotonic() - started
        return _Timed(seconds, sum(a.num_tokens for a in answers), max(a.num_steps for a in answers))

    together.wait()
    once(_WARM_STEPS)
    together.wait()
    short = once(_FIRST_STEPS)
    steps = max(_FIRST_STEPS, int(short.num_steps * _AIM_S / max(short.seconds, 1e-3)))
    together.wait()
    return [short, once(steps)]


def _fit(short: _Timed, long: _Timed) -> tuple[float, float]:
    """(seconds for each target, seconds for each training)."""
    more = long.num_tokens - short.num_tokens
    # As long as each other: all texts of the client.
    if more < short.num_tokens / 2:
        return long.seconds / max(1, long.num_tokens), 0.0
    slope = max(long.seconds - short.seconds, 0.0) / more
    # What a short one takes beside its steps is noise and start; none of it is more than all of it.
    slope = max(slope, 0.5 * long.seconds / long.num_tokens)
    return slope, max(0.0, short.seconds - slope * short.num_tokens)


def _generated_s(trainer: _Trainer, spec: RunSpec, adapter: Path) -> float:
    generation = replace(spec.generation, max_new_tokens=min(_TOKENS_GENERATED, spec.generation.max_new_tokens))
    if not generation.prompts or spec.training.shared != "both":
        return 0.0
    started = time.monotonic()
    trainer.do([_task("generate-0-prompts-0", GenerateWork("generate", generation), 0)], adapter, [])
    return (time.monotonic() - started) / generation.max_new_tokens


def _result(trainer: _Trainer, client: str) -> Path:
    return Path(trainer.setup.work_dir) / f"result_{client}"


def _task(name: str, work: Any, round: int, client: str | None = None) -> m.Task:
    adapter = None if isinstance(work, InitWork) else m.BlobRef("0" * 64, 0)
    return m.Task(name, "0" * 32, round, client, 0, adapter, work, None, None, None)
