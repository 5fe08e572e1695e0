"""The outbox: what is finished is offered until it is judged, and kept until it is committed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from agent import E1, PREPARED, RUN, T1, T2, WELCOME, Agent, announced, evaluated, failed, offer, task, tasks, verdict

from fedmq.protocol import messages as m
from fedmq.protocol import worker_events as we


def test_what_is_not_judged_is_offered_on_every_new_link() -> None:
    agent = Agent().uploading()
    for _ in range(3):
        agent.hear(m.Reject("REHELLO", "", ()))
        assert agent.hear(WELCOME) == [announced(T1, T1), we.Send(offer())]
    agent.hear(verdict("ACCEPTED"))
    agent.hear(m.Reject("REHELLO", "", ()))
    assert agent.hear(WELCOME) == [announced()], "accepted: not offered again, kept until its commit"
    assert agent.hear(m.Committed(1, 2)) == [we.Forget(T1)]


def test_an_answer_that_is_not_judged_is_given_on_every_new_link() -> None:
    agent = Agent().uploading(E1)
    agent.hear(m.Reject("REHELLO", "", ()))
    assert agent.hear(WELCOME) == [announced(E1), we.Send(evaluated())]


def test_the_outbox_of_an_earlier_process_is_offered() -> None:
    agent = Agent(outbox={T1: offer()}, outbox_run=RUN)
    agent.say(we.Tick())
    agent.hear(WELCOME)
    assert agent.say(PREPARED) == [announced("", T1), we.Send(offer())]
    assert agent.hear(verdict("UPLOAD")) == [we.Upload(offer())]


def test_a_task_that_is_done_already_is_offered_and_not_done_again() -> None:
    agent = Agent(outbox={T1: offer()}, outbox_run=RUN).ready()
    assert agent.hear(tasks()) == [we.Send(offer())]
    assert agent.hear(verdict("UPLOAD")) == [we.Upload(offer())]
    agent.hear(verdict("ACCEPTED"))
    assert not agent.state.hand.tasks


def test_the_outbox_of_another_run_is_forgotten() -> None:
    agent = Agent(outbox={T1: offer()}, outbox_run="00" * 16)
    agent.say(we.Tick())
    assert agent.hear(WELCOME) == [we.Forget(T1), we.Prepare(WELCOME)]
    assert agent.say(PREPARED) == [announced()]


@pytest.mark.parametrize("state", ["ready", "working", "uploading"])
def test_another_run_starts_from_nothing(state: str) -> None:
    """Whatever the trainer still does is for a run that is no more; no result of it may reach this one."""
    agent: Agent = getattr(Agent(), state)()
    agent.hear(m.Reject("REHELLO", "", ()))
    other = dataclasses.replace(WELCOME, run="00" * 16)
    forgotten = [we.Forget(T1)] if state == "uploading" else []
    assert agent.hear(other) == [*forgotten, we.Prepare(other)]
    assert agent.say(we.Finished(offer())) == []
    assert agent.say(PREPARED) == [announced()]
    assert agent.hear(tasks()) == [we.Fetch(task().adapter)], "a task of the same name is another task"


def test_a_commit_forgets_only_what_it_covers() -> None:
    agent = Agent(outbox={T1: offer(), T2: offer(T2)}, outbox_run=RUN).ready()
    agent.hear(verdict("ACCEPTED"))
    assert agent.hear(m.Committed(1, 2)) == [we.Forget(T1)]
    assert list(agent.state.outbox) == [T2]


@pytest.mark.parametrize(
    ("next_task", "forgotten"),
    [("train-1-client_4-0", []), ("train-2-client_4-0", [T1]), ("evaluate-1-test-0", [T1]), ("evaluate-0-test-0", [])],
)
def test_a_task_tells_of_a_commit_whose_word_was_lost(next_task: str, forgotten: list[str]) -> None:
    agent = Agent().uploading()
    agent.hear(verdict("ACCEPTED"))
    assert agent.hear(tasks(next_task))[:-1] == [we.Forget(task) for task in forgotten]


def test_a_task_forgets_nothing_that_is_not_judged() -> None:
    agent = Agent(outbox={T1: offer()}, outbox_run=RUN).ready()
    assert agent.hear(tasks(T2)) == [we.Fetch(task().adapter)]
    assert agent.state.outbox == {T1: offer()}


@pytest.mark.parametrize("code", ["LATE", "UNKNOWN_TASK", "INVALID"])
def test_what_nobody_wants_is_forgotten(code: Any) -> None:
    agent = Agent().uploading()
    assert agent.hear(verdict(code)) == [we.Forget(T1)]
    assert not agent.state.hand.tasks and agent.state.outbox == {}


@pytest.mark.parametrize("code", ["ACCEPTED", "DUPLICATE"])
def test_what_counts_is_kept_until_its_commit(code: Any) -> None:
    agent = Agent().uploading()
    assert agent.hear(verdict(code)) == []
    assert not agent.state.hand.tasks and agent.state.outbox == {T1: offer()}


def test_the_first_adapter_needs_no_commit() -> None:
    init = "init-0-adapter-0"
    agent = Agent().ready()
    assert agent.hear(tasks(init)) == [we.Run((task(init),))], "there is nothing to fetch"
    assert agent.say(we.Finished(offer(init))) == [we.Send(offer(init))]
    assert agent.hear(verdict("ACCEPTED", init)) == [we.Forget(init)]


def test_a_grant_for_what_is_not_there_is_ignored() -> None:
    assert Agent().ready().hear(verdict("UPLOAD")) == []


def test_a_result_outlives_the_commit_of_its_round_while_it_is_wanted() -> None:
    """An asynchronous run: round 1 is committed without it, and it counts in a later one."""
    agent = Agent().uploading()
    assert agent.hear(m.Committed(1, 1)) == []
    assert agent.hear(verdict("UPLOAD")) == [we.Upload(offer())]
    agent.hear(verdict("ACCEPTED"))
    assert agent.hear(m.Committed(2, 1)) == [we.Forget(T1)], "it is in the model"


def test_a_result_that_became_too_old_is_given_up() -> None:
    agent = Agent().uploading()
    agent.hear(m.Committed(1, 1))
    assert agent.hear(m.Committed(2, 2)) == [we.Forget(T1), failed("CANCELLED", "on request")]
