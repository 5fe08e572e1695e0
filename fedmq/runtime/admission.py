"""Who may take part: a worker's base and data must be those of the run."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from fedmq.protocol import events as ev
from fedmq.protocol import messages as m
from fedmq.protocol.fields import MAX_TEXT
from fedmq.protocol.grouping import Size
from fedmq.recipe import TrainingRecipe
from fedmq.storage.hosted import Hosted
from fedmq.storage.journal import Journal

_OWN_MODELS = (
    "{what}: each has a model of its own, and there is none of all, so no texts are made at the end",
    "perplexity and loss are of the clients' own models, each on held-out texts, averaged by tokens; one "
    "that has not trained yet scores as the base does",
)

_WHAT_IS_SHARED = {
    "A": "fedsa: factor A is shared, B stays with its client",
    "B": "factor B is shared, A stays with its client",
    "none": "local: nothing is shared, every client trains alone",
}


class Admission:
    """Checks what workers say of themselves when they are ready.

    Args:
      journal: keeps the digest of the base that the run's first worker loaded, and of each client the digest of its
        data, its size, and who has hosted it.
      named: the run's clients where they are known beforehand.
      shared: `TrainingRecipe.shared`: where it is one factor, each client has a model of its own, and none is of all.
    """

    def __init__(self, journal: Journal, named: Collection[str], shared: str) -> None:
        self._journal, self._named, self._shared = journal, named, shared

    def check(self, worker: str, ready: m.Ready) -> m.Reject | None:
        """The refusal, or None. Adapters of another base fit in shape and would spoil the model silently."""
        base = self._journal.get("base_digest")
        if base is not None and base != ready.base_digest:
            text = f"its base has SHA-256 {ready.base_digest[:12]}, that of the run's first worker {base[:12]}"
            return _refusal("BASE", f"{text}: give all workers the same model")
        if self._shared != "both" and (lacks := _cannot_score(ready)) is not None:
            return _refusal("DATA", lacks)
        for client in ready.clients:
            if self._named and client.client not in self._named:
                return _refusal("DATA", f"this run has no {client.client}")
            if self._journal.get(f"data/{client.client}") not in (None, client.data_digest):
                text = f"this run has had other data under the name {client.client}"
                return _refusal("DATA", f"{text}: bring that back, take another --client, or --overwrite the run")
            # What an update weighs follows from it: the same data cannot be more on another day.
            before = self._journal.hosted(client.client)
            if before is not None and before.num_examples != client.num_examples:
                text = f"{client.client} had {before.num_examples} examples, and now {client.num_examples}"
                return _refusal("DATA", text)
        # Only now: a worker that is refused must not decide what the run's base and a client's data are.
        values = {"base_digest": ready.base_digest}
        known, sizes = self._journal.all_hosted(), {c.client: (c.num_examples, c.num_tokens) for c in ready.clients}
        values |= {f"data/{client.client}": client.data_digest for client in ready.clients}
        for name in {*known, *sizes}:
            # What it says is the whole truth about it: it may have given clients away.
            before = known.get(name, Hosted(0, 0, ()))
            workers = {*before.workers} - {worker} | ({worker} if name in sizes else set())
            size, gone = sizes.get(name, (before.num_examples, before.num_tokens)), before.gone and name not in sizes
            values |= {Hosted.key(name): Hosted(*size, tuple(sorted(workers)), gone).encoded()}
        self._journal.put(**values)
        return None

    def leave_out(self, client: str) -> None:
        """Nobody hosts the client: it is not drawn, nor in a resumed run, until a worker that does is admitted."""
        hosted = self._journal.hosted(client)
        assert hosted is not None, f"{client} was never announced"
        self._journal.put(**{Hosted.key(client): hosted._replace(gone=True).encoded()})

    def introduce(self, worker: str, ready: m.Ready, training: TrainingRecipe) -> Iterator[tuple[str, str]]:
        """What people are told of a worker, each line with its level.

        Of the first one also how much LoRA trains, and whether that is mostly warm-up.
        """
        examples = sum(client.num_examples for client in ready.clients)
        yield "info", f"{worker} joined on {ready.device}: {len(ready.clients)} clients, {examples} examples"
        if self._journal.get("num_trainable") is None:
            self._journal.put(num_trainable=str(ready.num_trainable), num_parameters=str(ready.num_parameters))
            share = 100 * ready.num_trainable / max(1, ready.num_parameters)
            text = f"LoRA trains {ready.num_trainable:,} of {ready.num_parameters:,} parameters ({share:.2f} %)"
            yield "info", text
            if training.shared != "both":
                what = _WHAT_IS_SHARED[training.shared]
                yield from (("info", line.format(what=what)) for line in _OWN_MODELS)
            largest = max((client.num_examples for client in ready.clients), default=None)
            if largest is not None and (line := warm_up_too_long(largest, training)) is not None:
                yield "warning", line


def warm_up_too_long(num_examples: int, training: TrainingRecipe) -> str | None:
    """A line where even the largest client's local training is mostly warm-up, which begins anew in each round."""
    batches = -(-num_examples // training.batch_size)
    steps = -(-batches // training.gradient_accumulation_steps) * training.num_epochs
    if 2 * training.warmup_steps <= steps:
        return None
    return (
        f"training.warmup_steps is {training.warmup_steps}, and no client here trains for more than {steps} "
        "steps in a round: warm-up begins anew in each, so most of it is spent below learning_rate; lower warmup_steps"
    )


def as_event(worker: str, ready: m.Ready) -> ev.WorkerReady:
    """What the state machine hears of a worker that was admitted."""
    return ev.WorkerReady(
        worker,
        {client.client: Size(client.num_examples, client.num_tokens) for client in ready.clients},
        frozenset(client.client for client in ready.clients if client.num_held_out),
        ready.evaluates_test,
        ready.running,
        ready.outbox,
    )


def _cannot_score(ready: m.Ready) -> str | None:
    """Versions are scored on the test shard once anybody says to have it, and then on no client's own texts."""
    if ready.evaluates_test:
        return "it offers to score a model on the test shard, and this run has none of all clients: each has its own"
    lacking = [client.client for client in ready.clients if not client.num_held_out]
    return f"{lacking[0]} has no held-out text to score its own model on" if lacking else None


def _refusal(code: str, text: str) -> m.Reject:
    return m.Reject(code, text[:MAX_TEXT], ())  # type: ignore[arg-type]
