"""The worker's agent: one thread with the sockets, the heartbeats and the outbox; never torch.

Training happens in a child process, so a step that holds the interpreter, or a kill for want of
memory, costs neither the link nor a finished update.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from fedmq.errors import RemoteProtocolError, VersionMismatch
from fedmq.protocol import messages as m
from fedmq.protocol import trainer_link as link
from fedmq.protocol import worker_events as we
from fedmq.protocol import worker_state as ws
from fedmq.protocol.fields import MAX_CONTINUATION
from fedmq.protocol.frames import Codec
from fedmq.runtime import client_states
from fedmq.runtime.child import TRAINER, TrainerProcess
from fedmq.runtime.control_queue import ControlQueue
from fedmq.runtime.outbox import Outbox
from fedmq.runtime.pipe import PipeClosed
from fedmq.runtime.transfers import Transfers
from fedmq.runtime.worker_log import log_message
from fedmq.storage import personal
from fedmq.transport.base import Payload, WorkerTransport

log = logging.getLogger("fedmq.worker")
#: Trainers that may be lost in a row before one has loaded; then something is wrong with this host.
_MAX_CRASHES = 3


class WorkerOptions(NamedTuple):
    """How one worker runs on its host.

    Attributes:
      name: unique among the run's workers.
      sources: data it was given; empty takes what the coordinator's host has prepared, on loopback only.
      device: as in the config's field of that name.
      work_dir: its outbox, its copies of adapters, and shards made of an owner's CSV.
      log_file: of the trainer.
      log_dir: where client_K/ logs go; None keeps none.
      num_threads: CPU threads of the trainer.
      model, cache_dir: where the base lies on this host, if not where the run says.
      loopback: whether the coordinator is on this host.
      parent_fd: readable at end of file when the process that started us is gone; None = nobody to follow.
    """

    name: str
    sources: tuple[link.Source, ...]
    device: str
    work_dir: Path
    log_file: Path
    log_dir: Path | None
    num_threads: int
    model: str | None = None
    cache_dir: str | None = None
    loopback: bool = True
    parent_fd: int | None = None
    trainer: tuple[str, ...] = tuple(TRAINER)


class WorkerAgent:
    """Runs one worker to its end."""

    def __init__(self, options: WorkerOptions, transport: WorkerTransport) -> None:
        self.options, self.transport = options, transport
        self._in, self._control = Codec(m.TO_WORKER), ControlQueue(transport)
        self._outbox = Outbox(options.work_dir / "outbox")
        offers, run = self._outbox.offers, self._outbox.run
        self.state = ws.WorkerState(options.name, os.urandom(16).hex(), outbox=offers, outbox_run=run)
        self._transfers = Transfers(transport, options.work_dir / "blobs")
        self._trainer: TrainerProcess | None = None
        self._setup: link.Setup | None = None
        self._exit: we.Exit | None = None
        self._leaving: str | None = None
        self.own_models = options.work_dir / personal.FOLDER  # its clients', if they have any
        self._crashes = 0
        self._next_waiting_at = time.monotonic() + 10.0

    def run(self) -> we.Exit:
        """Serve until the run is over, the coordinator refuses us, or we are told to leave."""
        # The trainer imports torch while we say hello: seconds that nobody waits for.
        self._start_trainer()
        try:
            while self._exit is None:
                self._turn()
        finally:
            if self._trainer is not None:
                self._trainer.end()
            self._transfers.close()
            self.transport.close(linger_s=0.5)
        return self._exit

    def leave(self, reason: str) -> None:
        """Say goodbye and end soon; may be called from a signal handler."""
        self._leaving = reason

    def _turn(self) -> None:
        assert self._trainer is not None
        parent = self.options.parent_fd
        fds = [self._trainer.fd] if parent is None else [self._trainer.fd, parent]
        received = self.transport.receive(0.1, fds)
        if received.notices:
            self._handle(we.Linked())
        for incoming in received.messages:
            self._take(incoming.plane, incoming.frames)
        if received.relinked:
            self._transfers.relinked()
        if self._trainer.fd in received.readable:
            self._hear_trainer()
        if parent is not None and parent in received.readable:
            self._handle(we.Leave("the process that started this worker is gone"))
        if self._trainer.enforce_halt(self.state.hand.in_vain):
            log.warning("the trainer does not stop: killed")
        if self._leaving is not None:
            self._handle(we.Leave(self._leaving))
        now = time.monotonic()
        if (fetched := self._transfers.fetched()) is not None:
            self._handle(we.Fetched(*fetched))
        if self._transfers.missing():
            self._handle(we.Broke("ERROR", "the coordinator does not have the task's adapter"))
        self._transfers.tick()
        if self._transfers.stuck():
            self._connect_anew("a transfer does not get on")
        self._control.retry()
        self._handle(we.Tick())
        if self.state.link is ws.Link.HELLO and now >= self._next_waiting_at:
            self._next_waiting_at = now + 30.0
            log.warning("still waiting for the coordinator")

    def _take(self, plane: str, frames: tuple[Payload, ...]) -> None:
        try:
            if plane == "data":
                self._transfers.take(frames)
            elif len(frames) == 1:
                message = self._in.decode(bytes(frames[0]))
                if isinstance(message, m.Welcome):
                    self.transport.dial_data(message.data_port)
                    self._transfers.configure(message.chunk_nbytes, message.credits, message.spec.download)
                log_message(message)
                self._handle(we.Received(message))
        except VersionMismatch as error:
            self._exit = we.Exit(error.exit_code, f"the coordinator is of another version: {error}")
        except RemoteProtocolError as error:
            # What it should have said is lost. On a new link the coordinator will have us say hello.
            self._connect_anew(f"a message of the coordinator was refused: {error}")

    def _connect_anew(self, why: str) -> None:
        log.warning("%s: connecting anew", why)
        self.transport.rebuild()
        self._transfers.rewind()

    def _handle(self, event: Any) -> None:
        for command in self.state.handle(event, time.monotonic()):
            self._do(command)

    def _do(self, command: Any) -> None:
        match command:
            case we.Send(message):
                log_message(message)
                self._control.send(message)
            case we.Prepare(welcome):
                self._prepare(welcome)
            case we.Fetch(blob, delta, merged):
                self._transfers.fetch(blob, delta, merged)
            case we.Run(tasks):
                self._run(tasks)
            case we.Halt():
                assert self._trainer is not None
                self._trainer.halt()
            case we.Upload(offer):
                if not self._transfers.upload(offer, self._outbox.update(offer.task)):
                    self._damaged(offer)
            case we.Forget(task):
                self._transfers.forget(task)
                self._outbox.remove(task)
            case we.Rebuild():
                self._connect_anew("nothing heard from the coordinator")
            case we.Exit(code):
                if code == 0:
                    client_states.forget_all(self.options.work_dir)
                    self._transfers.forget_all()
                self._exit = command

    def _prepare(self, welcome: m.Welcome) -> None:
        options = self.options
        self._outbox.begin(welcome.run)
        sources, state_dir = options.sources, welcome.state_dir
        self.own_models = Path(state_dir).parent / personal.FOLDER
        if sources:
            state_dir = str(client_states.of_worker(options.work_dir, welcome.run).resolve())
            self.own_models = options.work_dir.resolve() / personal.FOLDER / welcome.run
        else:
            if not (options.loopback and welcome.data_dir):
                hint = "give it a shard, or a CSV with --client NAME, by --data"
                return self._handle(we.Broke("DATA", f"this worker has no data: {hint}", fatal=True))
            sources = (link.Source(welcome.data_dir, None),)
        if self._setup is not None:
            self._trainer_gone()
            self._start_trainer()
        self._setup = link.Setup(
            spec=welcome.spec,
            sources=sources,
            device=options.device,
            model=options.model,
            cache_dir=options.cache_dir,
            work_dir=str(options.work_dir),
            log_dir=None if options.log_dir is None else str(options.log_dir),
            state_dir=state_dir,
            personal_dir=str(self.own_models),
        )
        assert self._trainer is not None
        self._trainer.send(self._setup)
        return None

    def _run(self, tasks: tuple[m.Task, ...]) -> None:
        assert self._trainer is not None
        blobs = (tasks[0].adapter, tasks[0].merged)
        adapter, merged = (None if blob is None else str(self._transfers.path(blob.digest)) for blob in blobs)
        made = tuple(str(self._outbox.made(task.task)) for task in tasks)
        self._trainer.send(link.Begin(tasks, adapter, merged, made))

    # --- the trainer ---------------------------------------------------------------------------

    def _start_trainer(self) -> None:
        self._trainer = TrainerProcess(list(self.options.trainer), self.options.num_threads, self.options.log_file)

    def _trainer_gone(self) -> str:
        assert self._trainer is not None
        trainer, self._trainer = self._trainer, None
        return trainer.end()

    def _hear_trainer(self) -> None:
        assert self._trainer is not None
        try:
            messages = self._trainer.receive()
        except PipeClosed:
            how = self._trainer_gone()
            log.warning("the trainer was lost (%s); its log is %s", how, self.options.log_file)
            self._crashes += 1
            text = f"the trainer {how}; its log is {self.options.log_file}"
            self._start_trainer()
            if self._setup is not None:
                self._trainer.send(self._setup)
            return self._handle(we.Broke("CRASHED", text, fatal=self._crashes >= _MAX_CRASHES))
        for message in messages:
            self._handle_trainer(message)
        return None

    def _handle_trainer(self, message: Any) -> None:
        owed = {task.task: task.nonce for task in self.state.hand.to_do()}
        match message:
            case link.Loaded():
                self._crashes = 0
                self._handle(we.Prepared(message))
            case link.Stepped(step, total_steps):
                self._handle(we.Stepped(step, total_steps))
            case link.Failed(of, code, text):
                self._handle(we.Broke(code, text, fatal=of is None, task=of))
            case link.Trained(task=of) if of in owed:
                self._trained(message, owed[of])
            case link.Trained(task=of):
                # Done with the others of its group, though it was done before.
                self._outbox.made(of).unlink(missing_ok=True)
            case link.Scored(of, loss_sum, num_tokens, num_examples, seconds) if of in owed:
                self._handle(we.Finished(m.Evaluated(of, owed[of], loss_sum, num_tokens, num_examples, seconds)))
            case link.Texts(of, texts) if of in owed:
                shown = tuple(text[:MAX_CONTINUATION] for text in texts)
                self._handle(we.Finished(m.Generated(of, owed[of], shown)))

    def _trained(self, trained: link.Trained, nonce: str) -> None:
        offer = m.Offer(
            task=trained.task,
            nonce=nonce,
            blob=m.BlobRef(trained.digest, trained.nbytes),
            num_examples=trained.num_examples,
            num_tokens=trained.num_tokens,
            num_steps=trained.num_steps,
            train_loss=trained.train_loss,
            train_seconds=trained.train_seconds,
            nbytes_down=self.state.nbytes_down,
            adapter_config=trained.adapter_config,
            state_lost=trained.state_lost,
        )
        self._outbox.add(offer)
        self._handle(we.Finished(offer))

    def _damaged(self, offer: m.Offer) -> None:
        """An update is no longer what was offered: it is forgotten, as if it had been refused, and made again."""
        text = "the update was damaged on the worker's disk"
        log.warning("%s: %s", offer.task, text)
        self._handle(we.Received(m.Verdict(offer.task, "INVALID", text)))
        self._do(we.Send(m.TaskFailed(offer.task, offer.nonce, "ERROR", text)))
