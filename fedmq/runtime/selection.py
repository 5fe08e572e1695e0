"""Who takes part in a round: the rule of selection, told what the journal knows of the clients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fedmq import rng
from fedmq.algorithms.candidates import Candidate, Draw, Sampler
from fedmq.errors import FedmqError, RunError
from fedmq.storage.journal import Journal

Weighting = Callable[[int, int], float]


def weigher(journal: Journal, weighting: Weighting, round: int) -> Callable[[Mapping[str, Any]], float]:
    """From an update of a round, as the journal has it, to what it counts in the mean."""
    drawn = journal.weights(round)
    if drawn is None:
        return lambda update: weighting(update["num_examples"], update["num_tokens"])
    return lambda update: drawn[update["client"]]


class Selected(NamedTuple):
    """The clients of a round, by id; `weights` says what each counts in the mean, where the draw decides it."""

    clients: tuple[str, ...]
    weights: dict[str, float] | None


class ClientSelection:
    """Draws the clients of each round.

    The result follows from the seed, the round and what is committed, and so is the same for a resumed run and for
    every order in which updates come.

    Args:
      journal: the run's.
      sampler: the rule.
      weighting: (num_examples, num_tokens) -> what a client counts.
      seed: of the run; round r draws from `rng.derive(seed, "select", r)`.
      name: of the rule, for messages.
    """

    def __init__(self, journal: Journal, sampler: Sampler, weighting: Weighting, seed: int, name: str) -> None:
        self._journal, self._sampler, self._weighting, self._seed, self._name = journal, sampler, weighting, seed, name
        #: what the committed rounds up to `_through` tell of each client
        self._past: dict[str, Candidate] = {}
        self._through = 0

    def select(self, round: int, eligible: Sequence[str], count: int, attempt: int = 0) -> Selected:
        """Draw `count` of the eligible clients.

        Args:
          round: from 1; all rounds before it are committed.
          eligible: their ids.
          count: at most as many; 0 where all places of an asynchronous run are taken.
          attempt: how often this round was drawn before: it was abandoned, or places in it became free.

        Raises:
          RunError: the rule failed, or gave something else than `count` of these clients.
        """
        if not count:
            return Selected((), None)
        candidates = self.candidates(round, eligible)
        generator = rng.derive(self._seed, f"select-{attempt}" if attempt else "select", round)
        try:
            chosen = self._sampler(candidates, Draw(round, count, generator, attempt))
            clients = sorted(chosen)
        except FedmqError:
            raise
        except Exception as error:
            raise RunError(f"{self._in_words(round)} failed: {type(error).__name__}: {error}") from error
        if len(clients) != count or len(set(clients)) != count or not set(clients) <= set(eligible):
            given = ", ".join(map(str, clients)) or "none"
            raise RunError(
                f"{self._in_words(round)} gave {given}: expected {count} different ones of the {len(eligible)} clients"
            )
        if not isinstance(chosen, Mapping):
            return Selected(tuple(clients), None)
        weights = {client: float(chosen[client]) for client in clients}
        for client, weight in weights.items():
            if not (math.isfinite(weight) and weight > 0):
                raise RunError(f"{self._in_words(round)} gave {client} the weight {weight}: expected a finite one > 0")
        return Selected(tuple(clients), weights)

    def candidates(self, round: int, eligible: Sequence[str]) -> list[Candidate]:
        """What is known of the eligible clients before a round, by id."""
        self._look_back(round - 1)
        hosted = self._journal.all_hosted()
        sizes = {client: hosted[client][:2] if client in hosted else (0, 0) for client in eligible}
        weights = {client: self._weighting(*size) for client, size in sizes.items() if size[0]}
        lightest = min(weights.values(), default=1.0)
        return [
            self._known(client)._replace(
                weight=weights.get(client, lightest), num_examples=sizes[client][0], num_tokens=sizes[client][1]
            )
            for client in sorted(eligible)
        ]

    def _look_back(self, last: int) -> None:
        for row in self._journal.rounds(self._through + 1):
            if row["round"] > last or row["state"] != "committed":
                break
            for client in row["selected"]:
                known = self._known(client)
                self._past[client] = known._replace(selected=(row["round"], *known.selected))
            for update in self._journal.folded(row["round"]):
                told = {name: update[name] for name in ("train_loss", "train_seconds")}
                self._past[update["client"]] = self._known(update["client"])._replace(last_trained=row["round"], **told)
            self._through = row["round"]

    def _known(self, client: str) -> Candidate:
        return self._past.get(client, Candidate(client))

    def _in_words(self, round: int) -> str:
        return f"round {round}: the selection {self._name}"
