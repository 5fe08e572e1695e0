"""Which versions are to be scored, on what, which of them wait for somebody who can, and which continue prompts."""

from __future__ import annotations

from collections.abc import Iterable

from fedmq.protocol.jobs import Job
from fedmq.protocol.roster import Roster


class Evaluations:
    """The evaluation and generation jobs of a run, put into its roster.

    Args:
      roster: of the run.
      generate_every: rounds from one version that continues the prompts to the next; 0 for none at all.
      num_rounds: the last version, which always does, as the first does.

    Attributes:
      unscored: versions that nobody who is here, or was, can evaluate.
    """

    def __init__(self, roster: Roster, generate_every: int, num_rounds: int) -> None:
        self._roster, self._generate_every, self._num_rounds = roster, generate_every, num_rounds
        self.unscored: set[int] = set()
        self._silent: set[int] = set()

    def want(self, versions: Iterable[int]) -> None:
        """These versions are to be scored: on the test set where somebody has it, else on what each client held out."""
        versions, roster = list(versions), self._roster
        units = ["test"] if roster.test_seen else sorted(roster.held_out - roster.gone)
        if not units:
            # Whoever can evaluate may come later; of the versions that wait for that, the first and the newest stay.
            waiting = self.unscored | set(versions)
            self.unscored = {version for version in waiting if version in (0, max(waiting))}
        roster.add([Job("evaluate", version, unit)] for version in versions for unit in units)

    def want_texts(self, versions: Iterable[int]) -> None:
        """Those of these versions that are due are to continue the prompts, once the next trainings are queued."""
        if every := self._generate_every:
            self._silent |= {version for version in versions if version % every == 0 or version == self._num_rounds}

    def ask_texts(self) -> None:
        """The trainings that go first are queued, or there are none any more."""
        versions, self._silent = sorted(self._silent), set()
        self._roster.add([Job("generate", version, "prompts")] for version in versions)

    def late(self) -> None:
        """Somebody came: what waited for one who can evaluate is put to work."""
        if self.unscored and (self._roster.test_seen or self._roster.held_out):
            versions, self.unscored = sorted(self.unscored), set()
            self.want(versions)

    def pending(self) -> set[int]:
        """Versions whose evaluation is still to come."""
        return self.unscored | {s.job.round for s in self._roster.of_kind("evaluate") if s.unfinished}

    def to_continue(self) -> set[int]:
        """Versions whose texts are still to come."""
        return self._silent | {s.job.round for s in self._roster.of_kind("generate") if s.unfinished}
