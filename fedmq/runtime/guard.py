"""Whom the coordinator hears: rates, strikes, and workers that are out for the rest of the run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from fedmq.errors import RemoteProtocolError
from fedmq.protocol import limits
from fedmq.protocol.fields import MAX_TEXT
from fedmq.protocol.limits import Bucket, Recent, Strikes
from fedmq.storage.journal import Journal
from fedmq.transport.base import Plane

#: A worker by its name (its key's, if there are keys), or a link on which nobody has said who speaks.
Who = str | tuple[Plane, bytes]
_QUARANTINED = "quarantined"


class Guard:
    """Counts what each peer sends, and what of it had to be refused.

    Args:
      journal: keeps who is out, so that a resumed run does not let them in again.
      note: (level, text) for people.
      shut_out: called with a worker and the reason when it is out.
    """

    def __init__(
        self,
        journal: Journal,
        note: Callable[[str, str], None],
        shut_out: Callable[[str, str], None],
    ) -> None:
        self._journal, self._note, self._shut_out = journal, note, shut_out
        self._out: dict[str, str] = json.loads(journal.get(_QUARANTINED) or "{}")
        self._buckets: dict[Plane, Recent[Who, Bucket]] = {
            "control": Recent(lambda: Bucket(limits.CONTROL, time.monotonic())),
            "data": Recent(lambda: Bucket(limits.DATA, time.monotonic())),
        }
        self._strikes: Recent[Who, Strikes] = Recent(Strikes)
        self._noted: Recent[tuple[str, str], list[int]] = Recent(lambda: [0])

    def admits(self, plane: Plane, who: Who) -> bool:
        """Whether one more message is read at all. One that is not costs nothing but this question."""
        if not isinstance(who, str) and who in self._strikes and self._strikes.of(who).out(time.monotonic()):
            return False
        if self._buckets[plane].of(who).take(time.monotonic()):
            return True
        self._strike(who, "FLOOD", f"more than {self._rate(plane).per_s:g} messages a second on the {plane} plane")
        return False

    def joining(self, who: Who) -> None:
        """It said hello or that it is ready, which is dear to answer."""
        self._buckets["control"].of(who).charge(limits.JOINING_COSTS - 1)

    def hosts(self, worker: str, num_clients: int) -> None:
        """The worker may have a finished update of each of its clients, and offer them all at once."""
        self._buckets["control"].of(worker).widen(limits.CONTROL.burst + num_clients)

    def asked(self, worker: str, num_tasks: int) -> None:
        """The worker was given tasks: an answer to each is no flood."""
        self._buckets["control"].of(worker).earn(num_tasks)

    def quarantined(self, worker: str) -> str | None:
        """Why the worker is out; None when it is not."""
        return self._out.get(worker)

    def refused(self, who: Who, error: RemoteProtocolError) -> None:
        """A message was not what the protocol allows."""
        self.remark(who, error.code, f"a message of {_name(who)} was refused: {error}")
        self._strike(who, error.code, str(error))

    def lied(self, worker: str, error: RemoteProtocolError) -> None:
        """A result was refused, and the worker was told."""
        self._strike(worker, error.code, str(error))

    def remark(self, who: Who, code: str, text: str) -> None:
        """A warning for people at the 1st, 2nd, 4th, 8th ... of its kind: each is a durable write."""
        # Links without a name are one: else everyone could have a first time as often as it likes.
        count = self._noted.of((_name(who), code))
        count[0] += 1
        if count[0].bit_count() == 1:
            self._note("warning", f"{text} (time {count[0]})")

    def _strike(self, who: Who, code: str, text: str) -> None:
        strikes, now = self._strikes.of(who), time.monotonic()
        if strikes.out(now) or strikes.add(code, now) < limits.MAX_STRIKES:
            return
        if not isinstance(who, str):
            self.remark(who, "MUTED", f"a link is not listened to for a while: {strikes.codes}")
        elif who not in self._out:
            reason = f"{who} is quarantined for this run: {strikes.codes}; last {text}"[:MAX_TEXT]
            self._out[who] = reason
            # Before it is told: whoever knows that it is out stays out.
            self._journal.put(**{_QUARANTINED: json.dumps(self._out)})
            self._note("warning", reason)
            self._shut_out(who, reason)

    @staticmethod
    def _rate(plane: Plane) -> limits.Rate:
        return limits.CONTROL if plane == "control" else limits.DATA


def _name(who: Who) -> str:
    return who if isinstance(who, str) else "an unknown peer"
