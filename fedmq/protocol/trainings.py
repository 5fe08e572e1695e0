"""The trainings of the round in work: who has a place in it, who may still get one, which updates are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fedmq.protocol import events as ev
from fedmq.protocol.events import Command
from fedmq.protocol.grouping import automatic, chunks
from fedmq.protocol.jobs import Job, JobState, Status
from fedmq.protocol.phases import Progress
from fedmq.protocol.policy import RoundPolicy
from fedmq.protocol.roster import Roster


class Trainings:
    """The training jobs of a run, put into its roster.

    Attributes:
      accepted: updates of the open round that are durable, by client, with their digests.
    """

    def __init__(self, policy: RoundPolicy, roster: Roster, progress: Progress) -> None:
        self._policy, self._roster = policy, roster
        self.accepted = dict(progress.accepted)
        self._add(progress.selected, (progress.version or 0) + 1, dict(progress.started))

    def jobs(self) -> list[JobState]:
        """All of the round, by client."""
        return self._roster.of_kind("train")

    def under_way(self) -> int:
        """How many may still come to something."""
        return sum(state.unfinished for state in self.jobs())

    def eligible(self, named: frozenset[str]) -> list[str]:
        """Clients that may be drawn: known, hosted not too long ago, and without a place in the round."""
        known = self._roster.sizes.keys() | named
        return sorted(known - self._roster.gone - {state.job.unit for state in self.jobs()})

    def within_reach(self, named: frozenset[str]) -> int:
        """How many updates the round can still have."""
        held = sum(state.unfinished or state.status is Status.DONE for state in self.jobs())
        return len(self.eligible(named)) + held

    def places(self) -> int:
        """How many more clients may begin."""
        return self._policy.places(self.under_way())

    def begin(self, round: int, clients: tuple[str, ...]) -> Command:
        """These clients were drawn; the round with them, and with those that are in it already, to be made durable."""
        before = [state.job for state in self.jobs()]
        groups = self._groups(clients)
        self._add(groups, round, {})
        started = tuple((job.unit, job.round) for job in before if job.round != round)
        return ev.OpenRound(round, (*((job.unit,) for job in before), *groups), started)

    def stop_outdated(self, round: int) -> list[Command]:
        """The buffer of an asynchronous round is full.

        What nobody has begun will start from the new version; what would be too old for that, or for which there is
        no later one, is stopped. The rest goes on.
        """
        oldest, last, commands = self._policy.oldest_wanted(round + 1), round >= self._policy.num_rounds, []
        for state in self.jobs():
            if state.status is Status.PENDING:
                del self._roster.jobs[state.job]
            elif state.unfinished and (last or state.job.round < oldest):
                commands += self._roster.give_up(state.job, "no later version can use it", "info")
        return commands

    def bases(self) -> set[int]:
        """Versions that trainings under way began from."""
        return {state.job.round - 1 for state in self.jobs() if state.unfinished}

    def invariants(self, round: int) -> dict[str, bool]:
        """What must hold while `round` is open, in words."""
        jobs, oldest = self.jobs(), self._policy.oldest_wanted(round)
        taken = self.under_way() if self._policy.asynchronous else len(jobs)
        return {
            "trainings are of rounds that are wanted": all(oldest <= state.job.round <= round for state in jobs),
            "at most those that are drawn are in training": self._policy.places(taken) >= 0,
            "a client has one training": len({state.job.unit for state in jobs}) == len(jobs),
        }

    def _groups(self, clients: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        size, sizes = self._policy.clients_per_batch, self._roster.sizes
        if size is None:
            known = [sizes[client] for client in clients if client in sizes]
            size = automatic(known, self._policy.batch_size, self._policy.cohort)
        return tuple(chunks(clients, self._roster.hosts, size))

    def _add(self, groups: Iterable[Iterable[str]], round: int, started: Mapping[str, int]) -> None:
        self._roster.add([Job("train", started.get(client, round), client) for client in group] for group in groups)
        for state in self.jobs():
            if state.job.unit in self.accepted:
                state.status, state.digest = Status.DONE, self.accepted[state.job.unit]
