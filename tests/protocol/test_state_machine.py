"""The federation of `federation.py` under hypothesis, and under it some state machines with a bug in them."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from federation import HAPPENED, RULES, Federation
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from fedmq.protocol import events as ev
from fedmq.protocol import messages as m
from fedmq.protocol.coordinator_state import CoordinatorState
from fedmq.protocol.hand import Hand
from fedmq.protocol.jobs import parse_task
from fedmq.protocol.roster import Roster
from fedmq.protocol.worker_state import WorkerState


def explore(nightly: bool) -> None:
    """By day always the same 200 histories, as long as the same modules are loaded."""
    HAPPENED.clear()
    run_state_machine_as_test(
        Federation,
        settings=settings(
            max_examples=5000 if nightly else 200,
            stateful_step_count=60,
            deadline=None,
            derandomize=not nightly,
            # A failing run is long: to find a shorter one would take longer than a test may.
            phases=[Phase.generate, Phase.shrink] if nightly else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_whatever_happens_the_invariants_hold(nightly: bool) -> None:
    explore(nightly)
    assert set(RULES) - HAPPENED.keys() == set(), "rules that never did anything"


# --- state machines with a bug in them are found out ------------------------------------------------


def _forgets_at_once(self: Any, task: str, code: str, real: Any = WorkerState._judged) -> list[Any]:
    return [*real(self, task, code), *(self._forget(task) if code == "ACCEPTED" else [])]


def _begins_anew(self: Any, welcome: m.Welcome, now: float, real: Any = WorkerState._welcomed) -> Any:
    self.hand = Hand()
    return real(self, welcome, now)


def _keeps_for_ever(self: Any, task: str) -> list[Any]:
    return []


def _is_open_to_the_same_again(self: Any, job: Any) -> bool:
    return job in self.jobs


def _wants_what_is_over(self: Any, task: str, real: Any = CoordinatorState.wants) -> bool:
    return real(self, task) or parse_task(task)[0].round < self.round


def _leaves_an_update_out(self: Any, accepted: Any, *args: Any, real: Any = CoordinatorState._aggregate) -> Any:
    return real(self, accepted[1:], *args)


def _leaves_a_round_out(self: Any, *args: Any, real: Any = CoordinatorState._aggregate) -> list[Any]:
    *before, last = real(self, *args)
    return [*before, ev.Aggregate(last.round + 1, last.clients)]


def _accepts_what_is_offered(self: Any, worker: str, task: str, digest: str) -> ev.Command:
    return ev.Reply(worker, task, "ACCEPTED")


def _keeps_who_is_revoked(self: Any, name: str, reason: str, now: float, real: Any = Roster.lost, **how: Any) -> Any:
    return [] if "revoked" in reason else real(self, name, reason, now, **how)


def _waits_for_who_is_no_more(self: Any, name: str, restarted: bool, now: float, real: Any = Roster.greeted) -> Any:
    return real(self, name, False, now)


def _keeps_the_link_of_who_is_lost(self: Any, *args: Any, real: Any = Roster.lost, **how: Any) -> list[Any]:
    return [command for command in real(self, *args, **how) if not isinstance(command, ev.Evict)]


def _offers_once(self: Any, now: float, real: Any = WorkerState._ready) -> list[Any]:
    return real(self, now)[:1]  # type: ignore[no-any-return]


def _trains_one_by_one(self: Any, groups: Any, real: Any = Roster.add) -> None:
    real(self, [[job] for group in groups for job in group])


@pytest.mark.parametrize(
    ("kind", "name", "bug", "invariant"),
    [
        (Roster, "open", _is_open_to_the_same_again, "I1: "),
        (CoordinatorState, "_aggregate", _leaves_an_update_out, "I2: "),
        (CoordinatorState, "_aggregate", _leaves_a_round_out, "I3: "),
        (Roster, "add", _trains_one_by_one, "I4: "),
        (CoordinatorState, "_judge", _accepts_what_is_offered, "I5: "),
        (CoordinatorState, "wants", _wants_what_is_over, "I6: "),
        (Roster, "lost", _keeps_who_is_revoked, "I7: "),
        (WorkerState, "_forget", _keeps_for_ever, "I8: "),
        (WorkerState, "_judged", _forgets_at_once, "I10: .* deleted"),
        (WorkerState, "_welcomed", _begins_anew, "I10: .* at once"),
        (Roster, "greeted", _waits_for_who_is_no_more, "I11: .* still waited for"),
        (Roster, "lost", _keeps_the_link_of_who_is_lost, "I11: .* never be given"),
        (WorkerState, "_ready", _offers_once, "I11: hangs"),
    ],
)
def test_a_bug_is_found(kind: type, name: str, bug: Any, invariant: str) -> None:
    with mock.patch.object(kind, name, bug), pytest.raises(AssertionError, match=invariant):
        explore(nightly=False)
