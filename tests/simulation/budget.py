"""I8: what a process holds because of what peers sent has a bound, and that follows from the run, not from them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fake_trainer import first_adapter
from flood import STRANGERS
from violation import Violation

from fedmq.codec import raw
from fedmq.protocol import limits
from fedmq.protocol.jobs import parse_task
from fedmq.runtime.coordinator import Coordinator
from fedmq.runtime.worker import WorkerAgent

if TYPE_CHECKING:
    from cluster import Shape

#: Of tables that forget the oldest: small, so that a storm fills them.
REMEMBERED = 16
#: Kept adapters of a worker: the one in hand and the one before.
_KEPT = 2
#: Of one job a worker has another update each time that something else of its group failed, and was done again.
_ATTEMPTS = 4

#: of a thing that grows: how many there are, and how many there may be
Counts = dict[str, tuple[int, int]]


class Budget:
    """Bounds of one run."""

    def __init__(self, shape: Shape) -> None:
        hosted = shape.hosted()
        self._workers, self._versions = len(hosted), shape.rounds + 1
        self._clients = len(shape.sites) * shape.clients
        self._of_worker = shape.clients
        self._together = shape.together
        #: of a round, and one for the first adapter: who may upload what
        self._uploads = self._workers * (shape.clients + 1)
        self._nbytes = len(raw.encode(first_adapter(0)))
        #: of each worker, what was counted last: it is looked at when that changes
        self._seen: dict[str, tuple[int, ...]] = {}
        #: tables that forget the oldest, and had to
        self.full: set[str] = set()

    def of_coordinator(self, coordinator: Coordinator) -> None:
        """Look at all that grows, after a turn."""
        in_hand = self._together + self._clients
        workers, names = self._workers, self._workers + len(STRANGERS)
        intake, links, state = coordinator._intake, coordinator._links, coordinator.state
        evaluations = state.evaluations
        guard, roster, server = coordinator._reception.guard, coordinator.state.roster, coordinator.server
        # What is left of the first adapter's goes with the first round.
        over = sum(0 < parse_task(task)[0].round <= state.version for _, task in intake._uploads)
        strikes = max((len(each._given) for each in guard._strikes._values.values()), default=0)
        parts = sum(part.total for part in intake._parts.values())
        decoded = sum(value.nbytes for update in server._decoded.values() for value in update.values())
        configs = [offer.adapter_config for offer in (*intake._offers.values(), *intake._uploads.values())]
        self._require(
            "coordinator",
            {
                "guard: control": (len(guard._buckets["control"]), REMEMBERED),
                "guard: data": (len(guard._buckets["data"]), REMEMBERED),
                "guard: strikes": (len(guard._strikes), REMEMBERED),
                "guard: remarks": (len(guard._noted), REMEMBERED),
                "reception: digests": (len(coordinator._reception._digests), REMEMBERED),
                "intake: asked": (len(intake._asked), REMEMBERED),
                "links: boots": (len(links._boots), REMEMBERED),
                "links: replaced": (len(links._replaced), REMEMBERED),
                # All of it is settled in the turn in which it comes.
                "events": (len(coordinator._events), 0),
                "intake: offers": (len(intake._offers), 0),
                "intake: uploads": (len(intake._uploads), self._uploads),
                "intake: uploads of rounds that are over": (over, 0),
                "intake: parts": (len(intake._parts), len(intake._uploads)),
                "intake: bytes of parts": (parts, self._uploads * self._nbytes),
                "intake: damaged": (len(intake._damaged), len(intake._parts)),
                "intake: cached bytes": (len(intake._cached[1]), self._nbytes),
                "intake: configs' bytes": (sum(map(len, configs)), 100 * self._uploads),
                "guard: strikes of one": (strikes, limits.MAX_STRIKES),
                "guard: quarantined": (len(guard._out), len(STRANGERS)),
                "links": (max(len(links._workers), len(links._peers)), names),
                "links: doubted": (len(links._doubted - links._workers.keys()), 0),
                "links: talking": (len(links._talking - links._peers.keys()), 0),
                "workers": (len(roster.workers), workers),
                # What it does, and what it finished under another coordinator and still has.
                "tasks in a hand": (max((len(w.hand) for w in roster.workers.values()), default=0), in_hand),
                "jobs": (len(roster.jobs), self._clients + self._versions + 2),
                "clients": (max(len(roster.sizes), len(roster.hosts)), self._clients),
                "accepted": (len(state.trainings.accepted), self._clients),
                "versions to be scored": (max(len(evaluations.unscored), len(coordinator._unscored)), self._versions),
                "decoded updates": (len(server._decoded), self._clients),
                "decoded bytes": (decoded, self._clients * self._nbytes),
                # Updates of two rounds; of versions that wait for their scores: adapter, delta, what is remembered.
                "checked blobs": (len(server.blobs.checked), 2 * self._clients + 3 * self._versions),
            },
        )

    def of_worker(self, name: str, agent: WorkerAgent) -> None:
        """Look at all that grows, after a turn."""
        state, transfers = agent.state, agent._transfers
        things = (state.outbox, state.settled, state.hand.tasks, state.hand.answers, transfers._uploads)
        seen = tuple(map(len, (*things, transfers._adapters._recent, transfers._blobs.checked)))
        if self._seen.get(name) == seen:
            return
        self._seen[name] = seen
        uploads, jobs = list(transfers._uploads.values()), Counter(parse_task(task)[0] for task in state.outbox)
        self._require(
            name,
            {
                "updates of different jobs": (len(jobs), self._of_worker + 1),
                "settled jobs": (len({parse_task(task)[0] for task in state.settled}), self._of_worker),
                "updates of one job": (max(jobs.values(), default=0), _ATTEMPTS),
                "tasks in hand": (len(state.hand.tasks), self._together),
                "answers": (len(state.hand.answers), self._together),
                "uploads": (len(uploads), len(state.outbox)),
                "uploads' bytes": (sum(len(each.content) for each in uploads), len(state.outbox) * self._nbytes),
                "kept adapters": (len(transfers._adapters._recent), _KEPT),
                "checked blobs": (len(transfers._blobs.checked), _KEPT),
            },
        )

    def _require(self, who: str, counts: Counts) -> None:
        for what, (count, most) in counts.items():
            if count > most:
                raise Violation(f"I8: {who} holds {count} of {what}, at most {most} are due")
            if count == REMEMBERED:
                self.full.add(what)
