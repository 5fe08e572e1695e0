"""Which versions are to be scored, on what, and which of them wait for somebody who can."""

from __future__ import annotations

from collections.abc import Iterable

from fedmq.protocol.jobs import Job
from fedmq.protocol.roster import Roster


class Evaluations:
    """The evaluation jobs of a run, put into its roster.

    Attributes:
      unscored: versions that nobody who is here, or was, can evaluate.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self.unscored: set[int] = set()

    def want(self, versions: Iterable[int]) -> None:
        """These versions are to be scored: on the test set where somebody has it, else on what each client held out."""
        versions, roster = list(versions), self._roster
        units = ["test"] if roster.test_seen else sorted(roster.held_out - roster.gone)
        if not units:
            # Whoever can evaluate may come later; of the versions that wait for that, the first and the newest stay.
            waiting = self.unscored | set(versions)
            self.unscored = {version for version in waiting if version in (0, max(waiting))}
        roster.add([Job("evaluate", version, unit)] for version in versions for unit in units)

    def late(self) -> None:
        """Somebody came: what waited for one who can evaluate is put to work."""
        if self.unscored and (self._roster.test_seen or self._roster.held_out):
            versions, self.unscored = sorted(self.unscored), set()
            self.want(versions)

    def pending(self) -> set[int]:
        """Versions whose evaluation is still to come."""
        return self.unscored | {s.job.round for s in self._roster.of_kind("evaluate") if s.unfinished}
