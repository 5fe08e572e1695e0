"""FederatedLearning: a whole run from Python, with local workers as processes of their own."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fedmq import atomic, build, build_virtual
from fedmq.algorithms.aggregate import Aggregator
from fedmq.algorithms.candidates import Sampler
from fedmq.config import ExperimentConfig, get_default_config
from fedmq.errors import ConfigError, RunError, StorageError
from fedmq.runtime import derived, run_log, stop_signals
from fedmq.runtime.console import ConsoleView, statistics_lines
from fedmq.runtime.coordinator import Coordinator
from fedmq.runtime.local import LocalWorkers, default_workers, num_cuda_devices, prepare_data
from fedmq.runtime.server import FederatedServer
from fedmq.runtime.virtual import VirtualRun
from fedmq.storage.run_folder import OpenRun, discard, open_run, settle
from fedmq.tracking.backends import require
from fedmq.tracking.follower import Follower, follow, write_lines

#: What the end of a run may take: workers that have not ended by then are killed.
_END_S = 4.0
#: A worker that waits for a coordinator tries to connect every second.
_DISMISS_S = 5.0


class FederatedLearning:
    """One run: this process coordinates, local worker processes train.

    Args:
      config: the run; None takes the defaults.
      resume: go on with the run in output_dir; starts it if there is none.
      overwrite: replace the run in output_dir.
      bind: where to listen; local workers need loopback only.
      keys: folder of `fedmq keys`: only workers whose key is allowed there join; needed off loopback.
      local_workers: processes to start here; None takes federated.num_workers or what fits the machine,
        0 starts none: workers come from elsewhere, with their own data.
      view: who is told of the progress; None prints to standard output.
      aggregator: your own rule, in place of federated.aggregation_method; a resumed run needs the same again.
      sampler: your own rule of selection, in place of federated.selection; a resumed run needs the same again.
      speeds: examples that a client trains in a second of a virtual clock, 1 for who is not in it: nothing is waited
        for, one process trains (docs/modes.md). None: time is real.

    Example:
      >>> fed = FederatedLearning(get_default_config())  # doctest: +SKIP
      >>> fed.setup()  # doctest: +SKIP
      >>> rounds = fed.train()  # doctest: +SKIP
      >>> fed.test_generation(["My order is"])  # doctest: +SKIP
    """

    def __init__(
        self,
        config: ExperimentConfig | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
        bind: str = "tcp://127.0.0.1:0",
        keys: str | Path | None = None,
        local_workers: int | None = None,
        view: ConsoleView | None = None,
        aggregator: Aggregator | None = None,
        sampler: Sampler | None = None,
        speeds: Mapping[str, float] | None = None,
    ) -> None:
        self.config = config or get_default_config()
        self.resume, self.overwrite, self.bind = resume, overwrite, bind
        self.keys, self.local_workers = None if keys is None else Path(keys), local_workers
        self.view, self.aggregator, self.sampler = view or ConsoleView(), aggregator, sampler
        self.speeds = speeds
        self.run_dir = Path(self.config.output_dir)
        self._run: OpenRun | None = None
        self._server: FederatedServer | None = None
        self._coordinator: Coordinator | VirtualRun | None = None
        self._workers: LocalWorkers | None = None
        self._log: logging.Handler | None = None
        self._follower: Follower | None = None
        #: why `train` has nothing to go on with
        self._ended: str | None = None

    @property
    def server(self) -> FederatedServer:
        """The global model and the run's folder, after `setup`."""
        if self._server is None:
            raise RunError("this run is not set up: call setup() first")
        return self._server

    @property
    def address(self) -> str | None:
        """Where workers connect to, after `setup`; None for a run that needs no workers: finished, or virtual."""
        return self._coordinator.transport.address if isinstance(self._coordinator, Coordinator) else None

    def setup(self) -> None:
        """Open the run's folder, listen, start the local workers and prepare their data.

        Raises:
          ConfigError, DataError, ModelError: the config, the keys, the data or the base cannot be used.
          RunError: the port is in use.
          KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came; as after any error, the folder is as it was.
        """
        config = self.config
        config.validate_all()
        require(config.tracking.backends)
        if self.keys is not None and self.local_workers != 0:
            raise ConfigError("keys are for workers that are started by hand: local_workers=0")
        if self.speeds is not None and (self.keys is not None or self.local_workers is not None):
            raise ConfigError("by a virtual clock one process trains for all clients: no workers, no keys")
        own: dict[str, Any] = {"aggregator": self.aggregator.label()} if self.aggregator else {}
        decisive = config.decisive() | own | ({} if self.speeds is None else {"speeds": dict(self.speeds)})
        with stop_signals.raised():
            try:
                with atomic.disk_failures(self.run_dir):
                    self._open(json.dumps(config.to_dict()), json.dumps(decisive, sort_keys=True))
            except BaseException as error:
                self._give_up(error)
                raise

    def _open(self, config: str, decisive: str) -> None:
        run = self._run = open_run(self.run_dir, config, decisive, resume=self.resume, overwrite=self.overwrite)
        self._server = build.server(self.config, self.run_dir, run.journal, self.aggregator, self.sampler)
        if run.finished:
            # It may have been killed just before it wrote them.
            self._write_derived()
            self._dismiss_workers()
            self.close()
            return
        self._log = run_log.start(Path(self.config.log_dir) / "coordinator.log")
        self.view.resumed(self._server.rounds(), self._server.scores())
        self._follower = follow(self.view, run.journal, self.run_dir, self.config.tracking.backends)
        if self.speeds is None:
            self._listen()
        else:
            named = self._prepare()
            self._coordinator = build_virtual.virtual_run(self.config, self._server, self._follower, named, self.speeds)

    def _dismiss_workers(self) -> None:
        """Those that were started by hand may still wait for a coordinator that died when all was done."""
        if self.local_workers != 0 or self.bind.endswith(":0"):
            return
        try:
            self.view.say(f"this run is finished; for {_DISMISS_S:g} s its workers that still wait are told so")
            count = build.dismiss_workers(self.server.journal, self.bind, self.keys, _DISMISS_S)
            self.view.say(f"{count} told")
        except (ConfigError, RunError, KeyboardInterrupt) as error:
            # Whoever interrupts has waited enough: the run itself is done.
            self.view.note("warning", f"not all could be told ({error}): the same command tells the others")

    def _listen(self) -> None:
        transport = build.transport(self.bind, self.keys)
        named: frozenset[str] = frozenset()
        try:
            if self.local_workers != 0:
                # The workers load torch while the data is prepared.
                self._start_workers(transport.address)
                named = self._prepare()
            self._coordinator = build.coordinator(
                *(self.config, self.server, transport, self._follower or self.view, time.monotonic(), named),
                self.run_dir / "data",
            )
        except BaseException:
            transport.close()
            raise

    def _start_workers(self, address: str) -> None:
        federated, device = self.config.federated, self.config.device
        count = self.local_workers or federated.num_workers or default_workers(device, federated.clients_per_round)
        if device == "cuda" and not num_cuda_devices():
            self.view.say("no CUDA device here: training on the CPU")
        self._workers = LocalWorkers(
            address,
            count,
            self.run_dir / "workers",
            Path(self.config.log_dir),
            device,
            self.config.training.num_threads,
            self.config.model.cache_dir,
        )
        self._workers.start()

    def _prepare(self) -> frozenset[str]:
        """The run's shards; the clients' ids."""
        statistics = prepare_data(self.run_dir, self.server.journal, self.config.data.dataset_path)
        for line in statistics_lines(statistics):
            self.view.say(line)
        return frozenset(client["client_id"] for client in statistics["clients"])

    def train(self) -> list[dict[str, Any]]:
        """Run all rounds; returns one row per committed round.

        Raises:
          RunError: the run failed; it can be resumed.
          KeyboardInterrupt: it was interrupted; likewise.
        """
        if self._ended is not None:
            raise RunError(
                f"this run has ended ({self._ended}): make a new FederatedLearning(config, resume=True) to go on"
            )
        server, coordinator, workers, run = self.server, self._coordinator, self._workers, self._run
        if coordinator is None or run is None:
            self.view.say(f"{self.run_dir} holds this run, finished: nothing is left to do")
            return server.rounds()
        with stop_signals.asked_for() as stopping:
            try:
                with self.view, atomic.disk_failures(self.run_dir):
                    finish = coordinator.run(stopping, run.watched(workers.failure if workers else None))
                if finish.outcome != "done":
                    raised = RunError if finish.outcome == "failed" else KeyboardInterrupt
                    raise raised(finish.reason + self._way_on())
                self.close()
            except BaseException as error:
                self._give_up(error)
                raise
        return server.rounds()

    def _way_on(self) -> str:
        last = self.server.journal.last_committed()
        return (
            "" if last is None else f"; --resume goes on with round {min(last + 1, self.config.federated.num_rounds)}"
        )

    def close(self) -> None:
        """End the workers, close the sockets, write the metrics. The journal stays readable, if the run has a model."""
        deadline = time.monotonic() + _END_S
        run, coordinator, workers, log = self._run, self._coordinator, self._workers, self._log
        self._run = self._coordinator = self._workers = self._log = None
        if coordinator is not None and coordinator.finish is None and self._ended is None:
            self._ended = "it was closed"
        # Last in, first out; each is done even when one before it fails.
        with ExitStack() as ending:
            if run is not None:
                ending.callback(run.let_go)
            if log is not None:
                ending.callback(run_log.stop, log)
            if run is not None:
                ending.callback(self._leave, run, coordinator is not None)
            if workers is not None:
                ending.callback(lambda: workers.stop(max(0.5, deadline - time.monotonic())))
            if coordinator is not None:
                ending.callback(coordinator.close)

    def _give_up(self, error: BaseException) -> None:
        run, coordinator = self._run, self._coordinator
        self._ended = str(error) or type(error).__name__
        try:
            try:
                if run is not None and not run.finished and (coordinator is None or coordinator.finish is None):
                    status = "failed" if isinstance(error, Exception) else "interrupted"
                    run.journal.put(status=status, reason=self._ended)
            finally:
                self.close()
        except (StorageError, OSError) as another:
            # `error` says why the run ended; on a disk that is full this could not be written either.
            self.view.note("warning", str(another))

    def _leave(self, run: OpenRun, has_run: bool) -> None:
        if not run.is_there():
            return  # by now another's may be there
        if run.created and run.journal.last_committed() is None:
            # The command, corrected, then starts afresh.
            self._server = None
            discard(run, self.run_dir)
            return
        settle(self.run_dir)
        if has_run:
            if self._follower is not None:
                self._follower.close()
            self._write_derived()

    def _write_derived(self) -> None:
        derived.write_derived(self.server, self.config.experiment_name, self.config.federated.shared())
        write_lines(self.run_dir, self.server.journal)

    def summary(self) -> dict[str, Any]:
        """The run in one JSON-able object: rounds, perplexities, bytes, digest, generations, folders."""
        return derived.summary(self.server, self.config.log_dir)

    def test_generation(self, prompts: Sequence[str] | None = None, client: str | None = None) -> list[dict[str, str]]:
        """Continue prompts with the newest global model; prints and returns {prompt, generated} for each.

        Args:
          prompts: None takes generation.prompts.
          client: whose model, where each client has its own (federated.lora_aggregation "fedsa"); else None.

        Raises:
          ConfigError: there is no such model here.
        """
        from fedmq.finished_run import FinishedRun

        wanted = list(prompts) if prompts is not None else list(self.config.generation.prompts)
        texts = FinishedRun(str(self.run_dir), client).generate(wanted)
        results = [{"prompt": p, "generated": t.removeprefix(p)} for p, t in zip(wanted, texts, strict=True)]
        for result in results:
            self.view.say(" ".join((result["prompt"] + result["generated"]).split()))
        return results
