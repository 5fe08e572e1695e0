"""A group of trainings at the agent: one fetch, one run, an offer for each, and over when each is judged."""

from __future__ import annotations

import dataclasses

import pytest
from agent import RUN, WELCOME, Agent, announced, evaluated, failed, offer, task, tasks, verdict

from fedmq.protocol import messages as m
from fedmq.protocol import worker_events as we

G1, G2, G3 = GROUP = tuple(f"train-1-client_{k}-0" for k in (1, 2, 3))
NEXT = tuple(f"train-2-client_{k}-0" for k in (1, 2))
FETCHED = we.Fetched("ab" * 32, 100)


def done(name: str) -> we.Finished:
    return we.Finished(offer(name))


def stopped(name: str) -> we.Broke:
    return we.Broke("CANCELLED", "on request", task=name)


def test_the_life_of_a_group() -> None:
    agent = Agent().ready()
    assert agent.hear(tasks(*GROUP)) == [we.Fetch(m.BlobRef("ab" * 32, 100))], "once for all"
    assert agent.say(FETCHED) == [we.Run(tasks(*GROUP).tasks)]
    agent.say(we.Stepped(3, 9))
    assert agent.at(1.0) == [we.Send(m.Heartbeat(G1, "working", 3, 9))]
    assert agent.say(done(G2)) == [we.Send(offer(G2))]
    assert agent.hear(verdict("UPLOAD", G2)) == [we.Upload(offer(G2))]
    assert agent.hear(verdict("ACCEPTED", G2)) == []
    assert agent.at(2.0) == [we.Send(m.Heartbeat(G1, "working", 3, 9))]
    assert agent.say(done(G1)) == [we.Send(offer(G1))]
    assert agent.say(done(G3)) == [we.Send(offer(G3))]
    assert agent.state.hand.activity == "uploading"
    assert agent.hear(verdict("ACCEPTED", G1)) == []
    assert agent.hear(tasks(*NEXT)) == [failed("CANCELLED", f"busy with {G3}", name) for name in NEXT]
    assert agent.hear(verdict("ACCEPTED", G3)) == []
    assert agent.state.hand.activity == "idle"
    assert agent.hear(m.Committed(1, 2)) == [we.Forget(G2), we.Forget(G1), we.Forget(G3)]


def test_a_download_counts_once() -> None:
    agent = Agent().working(*GROUP)
    assert agent.state.nbytes_down == 100
    agent.say(done(G3))
    assert agent.state.nbytes_down == 0


def test_a_lost_link_keeps_the_group() -> None:
    agent = Agent().working(*GROUP)
    agent.say(done(G1))
    agent.hear(m.Reject("REHELLO", "", ()))
    assert agent.say(done(G2)) == []
    assert agent.hear(WELCOME) == [announced(" ".join(GROUP), G1, G2), we.Send(offer(G1)), we.Send(offer(G2))]


# --- one of the group ------------------------------------------------------------------------------


def test_one_that_is_cancelled_does_not_stop_the_others() -> None:
    """Their numbers would depend on when: the trainer does the whole group, and answers for it then."""
    agent = Agent().working(*GROUP)
    assert agent.hear(m.Cancel(G2, "")) == []
    assert agent.say(done(G1)) == [we.Send(offer(G1))]
    assert agent.say(done(G3)) == [we.Send(offer(G3)), we.Halt()], "nobody wants what is left"
    for name in (G1, G3):
        agent.hear(verdict("ACCEPTED", name))
    assert agent.state.hand.activity == "working", "not free before the trainer is"
    assert agent.say(stopped(G2)) == [failed("CANCELLED", "on request", G2)]
    assert agent.state.hand.activity == "idle"


def test_a_result_that_was_cancelled_is_offered_if_it_is_made_all_the_same() -> None:
    agent = Agent().working(*GROUP)
    agent.hear(m.Cancel(G2, ""))
    assert agent.say(done(G2)) == [we.Send(offer(G2))]
    assert agent.hear(verdict("LATE", G2)) == [we.Forget(G2)]
    assert agent.state.hand.owed == {G1, G3}


def test_all_that_are_cancelled_stop_the_trainer_once() -> None:
    agent = Agent().working(*GROUP)
    assert [agent.hear(m.Cancel(name, "")) for name in GROUP] == [[], [], [we.Halt()]]
    assert [agent.say(stopped(name)) for name in GROUP] == [[failed("CANCELLED", "on request", n)] for n in GROUP]
    assert agent.state.hand.activity == "idle"


def test_cancelled_while_fetching() -> None:
    agent = Agent().ready()
    agent.hear(tasks(*GROUP))
    assert agent.hear(m.Cancel(G1, "")) == agent.hear(m.Cancel(G2, "")) == []
    assert agent.hear(m.Cancel(G3, "")) == [failed("CANCELLED", "on request", name) for name in GROUP]
    assert agent.say(FETCHED) == []


def test_one_that_is_cancelled_while_fetching_is_trained_for_its_company() -> None:
    agent = Agent().ready()
    agent.hear(tasks(*GROUP))
    agent.hear(m.Cancel(G1, ""))
    assert agent.say(FETCHED) == [we.Run(tasks(*GROUP).tasks)]


def test_one_that_fails_leaves_the_others_at_work() -> None:
    agent = Agent().working(*GROUP)
    assert agent.say(we.Broke("NONFINITE", "diverged", task=G2)) == [failed("NONFINITE", "diverged", G2)]
    assert agent.say(done(G1)) == [we.Send(offer(G1))]
    assert agent.state.hand.owed == {G3}
    assert agent.say(we.Broke("NONFINITE", "diverged", task=G2)) == [], "it has failed already"


def test_a_trainer_that_dies_fails_what_it_had_not_finished() -> None:
    agent = Agent().working(*GROUP)
    agent.say(done(G2))
    assert agent.say(we.Broke("CRASHED", "killed")) == [failed("CRASHED", "killed", name) for name in (G1, G3)]
    assert agent.hear(verdict("UPLOAD", G2)) == [we.Upload(offer(G2))]
    assert list(agent.state.hand.tasks) == [G2]


@pytest.mark.parametrize("code", ["LATE", "UNKNOWN_TASK"])
def test_verdicts_on_running_tasks_are_cancels(code: str) -> None:
    agent = Agent().working(*GROUP)
    assert [agent.hear(verdict(code, name)) for name in GROUP] == [[], [], [we.Halt()]]


# --- a group that is done again --------------------------------------------------------------------


def test_a_group_of_which_some_is_finished_is_done_whole() -> None:
    """After a restart of the coordinator the names are the same; what is finished stays what it was."""
    agent = Agent(outbox={G2: offer(G2)}, outbox_run=RUN).ready()
    agent.hear(verdict("ACCEPTED", G2))
    assert agent.hear(tasks(*GROUP)) == [we.Send(offer(G2)), we.Fetch(task().adapter)]
    assert agent.state.hand.owed == {G1, G3}
    assert agent.say(FETCHED) == [we.Run(tasks(*GROUP).tasks)]
    other = dataclasses.replace(offer(G2), num_steps=99)
    assert agent.say(we.Finished(other)) == []
    assert agent.state.outbox == {G2: offer(G2)}
    assert agent.hear(verdict("DUPLICATE", G2)) == []
    agent.say(done(G1))
    agent.say(done(G3))
    assert set(agent.state.hand.tasks) == {G1, G3}


def test_a_group_that_is_finished_is_only_offered() -> None:
    agent = Agent(outbox={name: offer(name) for name in GROUP}, outbox_run=RUN).ready()
    assert agent.hear(tasks(*GROUP)) == [we.Send(offer(name)) for name in GROUP]
    assert agent.state.hand.activity == "uploading"


def test_what_is_asked_for_again_is_offered_on_every_new_link() -> None:
    """It was settled with a coordinator that is no more."""
    agent = Agent(outbox={G1: offer(G1)}, outbox_run=RUN).ready()
    agent.hear(verdict("ACCEPTED", G1))
    agent.hear(tasks(G1))
    agent.hear(m.Reject("REHELLO", "", ()))
    assert agent.hear(WELCOME) == [announced(G1, G1), we.Send(offer(G1))]


def test_the_same_group_again_changes_nothing() -> None:
    agent = Agent().working(*GROUP)
    assert agent.hear(tasks(*GROUP)) == []
    assert agent.hear(tasks(G1, G2)) == []
    assert agent.state.hand.owed == set(GROUP)


def test_an_evaluation_that_is_judged_frees_the_agent() -> None:
    agent = Agent().uploading("evaluate-1-test-0")
    assert agent.state.hand.answers == {"evaluate-1-test-0": evaluated()}
    agent.hear(verdict("ACCEPTED", "evaluate-1-test-0"))
    assert agent.state.hand.answers == {} and agent.state.hand.activity == "idle"
