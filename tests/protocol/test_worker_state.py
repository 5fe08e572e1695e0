"""The life of a worker agent: event lists against exact command lists, in virtual time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from agent import (
    E1,
    HELLO,
    PREPARED,
    RUN,
    T1,
    T2,
    WELCOME,
    Agent,
    announced,
    evaluated,
    failed,
    offer,
    task,
    tasks,
    verdict,
)

from fedmq.protocol import messages as m
from fedmq.protocol import worker_events as we
from fedmq.protocol.worker_state import Link


def test_a_whole_life() -> None:
    agent = Agent()
    assert agent.say(we.Tick()) == [we.Send(HELLO)]
    assert agent.hear(WELCOME) == [we.Prepare(WELCOME)]
    assert agent.at(0.5) == [we.Send(m.Heartbeat(None, "preparing", 0, 0))]
    assert agent.say(PREPARED) == [announced()]
    assert agent.hear(tasks()) == [we.Fetch(m.BlobRef("ab" * 32, 100))]
    assert agent.say(we.Fetched("ab" * 32, 100)) == [we.Run((task(),))]
    assert agent.say(we.Stepped(3, 9)) == []
    assert agent.at(1.5) == [we.Send(m.Heartbeat(T1, "working", 3, 9))]
    assert agent.say(we.Finished(offer())) == [we.Send(offer())]
    assert agent.hear(verdict("UPLOAD")) == [we.Upload(offer())]
    assert agent.hear(verdict("ACCEPTED")) == []
    assert agent.state.outbox == {T1: offer()}, "accepted is not committed"
    assert agent.hear(m.Committed(1, 2)) == [we.Forget(T1)]
    assert agent.state.outbox == {}
    assert agent.hear(tasks(E1)) == [we.Fetch(m.BlobRef("ab" * 32, 100))]
    assert agent.say(we.Fetched("ab" * 32, 0)) == [we.Run((task(E1),))]
    assert agent.say(we.Finished(evaluated())) == [we.Send(evaluated())]
    assert agent.hear(verdict("ACCEPTED", E1)) == []
    assert agent.hear(m.Shutdown("done", "all rounds committed")) == [
        we.Send(m.Goodbye("all rounds committed")),
        we.Exit(0, "all rounds committed"),
    ]
    assert agent.at(99.0) == [] and agent.hear(WELCOME) == [], "nothing changes an agent that has ended"


# --- the link --------------------------------------------------------------------------------------


def test_hello_is_repeated_ever_more_slowly() -> None:
    agent, sent = Agent(), []
    for tenth in range(700):
        sent += [(tenth / 10, type(command).__name__) for command in agent.at(tenth / 10)]
    gaps = [(round(b - a, 1), what) for (a, _), (b, what) in pairwise(sent)]
    slower = [(1.0, "Send"), (2.0, "Send"), (4.0, "Send"), (8.0, "Send"), (16.0, "Rebuild")]
    assert gaps[:13] == [(0.5, "Send"), *slower, (1.0, "Send"), *slower, (1.0, "Send")]


def test_on_a_new_link_hello_is_said_at_once() -> None:
    agent = Agent()
    for second in range(6):
        agent.at(float(second))
    assert agent.at(6.0) == []
    assert agent.say(we.Linked()) == [we.Send(HELLO)]
    agent.hear(WELCOME)
    agent.say(PREPARED)
    agent.hear(tasks())
    assert agent.say(we.Linked()) == [we.Send(HELLO)]
    assert agent.hear(WELCOME) == [announced(T1)], "a new link stops no task"


def test_a_second_welcome_changes_nothing() -> None:
    agent = Agent().ready()
    assert agent.hear(WELCOME) == []
    assert agent.state.link is Link.READY


@pytest.mark.parametrize(("code", "exit_code"), [("VERSION", 4), ("REVOKED", 3), ("BASE", 1), ("DATA", 1)])
def test_a_refusal_ends_the_agent(code: Any, exit_code: int) -> None:
    agent = Agent()
    agent.say(we.Tick())
    (end,) = agent.hear(m.Reject(code, "because", (2,)))
    assert (end.code, "because" in end.reason) == (exit_code, True)
    assert agent.state.link is Link.ENDED


@pytest.mark.parametrize(("outcome", "exit_code"), [("done", 0), ("failed", 1), ("interrupted", 130)])
def test_shutdown_in_the_middle_of_work(outcome: Any, exit_code: int) -> None:
    assert Agent().working().hear(m.Shutdown(outcome, "x")) == [
        we.Send(m.Goodbye("x")),
        we.Exit(exit_code, "x"),
    ]


@pytest.mark.parametrize(("outcome", "exit_code"), [("done", 6), ("failed", 1), ("interrupted", 130)])
def test_a_worker_that_comes_when_the_run_is_over_says_so(outcome: Any, exit_code: int) -> None:
    agent = Agent()
    agent.say(we.Tick())
    _, end = agent.hear(m.Shutdown(outcome, "all rounds committed"))
    assert (end.code, end.reason.startswith("the run is over: ")) == (exit_code, outcome == "done")


def test_a_worker_that_took_part_ends_well_also_when_it_hears_of_the_end_on_a_new_link() -> None:
    agent = Agent().working()
    agent.say(we.Linked())
    assert agent.hear(m.Shutdown("done", "x"))[-1] == we.Exit(0, "x")


def test_leaving_says_goodbye() -> None:
    assert Agent().ready().say(we.Leave("x" * 1000)) == [we.Send(m.Goodbye("x" * 256)), we.Exit(130, "x" * 1000)]


def test_a_coordinator_that_forgot_us_is_greeted_anew_at_once() -> None:
    agent = Agent().working()
    assert agent.hear(m.Reject("REHELLO", "say hello first", ())) == [we.Send(HELLO)]
    assert agent.hear(m.Reject("REHELLO", "say hello first", ())) == [], "once is enough"
    assert agent.hear(WELCOME) == [announced(T1)], "the same run: what is loaded stays, and the task goes on"


def test_silence_rebuilds_the_link_and_keeps_the_task() -> None:
    agent = Agent().working()
    for now in range(1, 20):
        assert not any(isinstance(c, we.Rebuild) for c in agent.at(float(now)))
    assert agent.at(20.0) == [we.Rebuild(), we.Send(HELLO)]
    assert agent.say(we.Finished(offer())) == [], "nobody to tell"
    assert agent.hear(WELCOME) == [announced(T1, T1), we.Send(offer())]


def test_any_message_is_a_sign_of_life() -> None:
    agent = Agent().ready()
    agent.at(19.0)
    agent.hear(m.HeartbeatAck(1))
    assert not any(isinstance(c, we.Rebuild) for c in agent.at(38.9))
    assert any(isinstance(c, we.Rebuild) for c in agent.at(39.0))


def test_a_link_lost_while_loading() -> None:
    agent = Agent()
    agent.say(we.Tick())
    agent.hear(WELCOME)
    agent.hear(m.Reject("REHELLO", "", ()))
    assert agent.say(PREPARED) == [], "loaded, with nobody to tell"
    assert agent.hear(WELCOME) == [announced()]


# --- a task that ends otherwise --------------------------------------------------------------------


def test_a_busy_worker_refuses_a_second_task() -> None:
    for agent in (Agent().working(), Agent().uploading()):
        assert agent.hear(tasks(T2)) == [failed("CANCELLED", f"busy with {T1}", T2)]
        assert agent.hear(tasks(T1)) == [], "the same task again is no second one"
        assert agent.state.hand.group == (task(T1),)


def test_cancel_while_fetching() -> None:
    agent = Agent().ready()
    agent.hear(tasks())
    assert agent.hear(m.Cancel(T1, "deadline")) == [failed("CANCELLED", "on request")]
    assert agent.say(we.Fetched("ab" * 32, 100)) == [], "the fetch that ends later starts nothing"
    assert not agent.state.hand.tasks


def test_cancel_while_working_waits_for_the_trainer() -> None:
    agent = Agent().working()
    assert agent.hear(m.Cancel(T1, "deadline")) == [we.Halt()]
    assert agent.state.hand.activity == "working", "not free before the trainer has stopped"
    assert agent.say(we.Broke("CANCELLED", "on request")) == [failed("CANCELLED", "on request")]


def test_a_worker_that_is_cut_off_stops_some_time_after_the_deadline() -> None:
    agent = Agent().working()
    agent.say(we.Broke("ERROR", "x"))
    agent.hear(m.Tasks((task(T2),), left_s=12.0))
    agent.say(we.Fetched("ab" * 32, 100))
    for _ in range(16):
        assert we.Halt() not in agent.at(agent.now + 1.0), "the coordinator may still tell it, at the deadline"
    assert we.Halt() in agent.at(agent.now + 1.0)
    assert we.Halt() not in agent.at(agent.now + 1.0), "once"
    assert agent.say(we.Broke("CANCELLED", "on request")) == [failed("CANCELLED", "on request", T2)]


def test_cancel_while_uploading() -> None:
    agent = Agent().uploading()
    assert agent.hear(m.Cancel(T1, "deadline")) == [we.Forget(T1), failed("CANCELLED", "on request")]
    assert not agent.state.hand.tasks and agent.state.outbox == {}


def test_cancel_of_an_update_that_only_waits_to_be_judged() -> None:
    """After a restart there is no task in hand, but the coordinator holds us for busy with what we offered."""
    agent = Agent(outbox={T1: offer()}, outbox_run=RUN).ready()
    assert agent.hear(m.Cancel(T1, "deadline")) == [we.Forget(T1), failed("CANCELLED", "on request")]


def test_a_commit_without_an_update_that_is_not_judged() -> None:
    for agent in (Agent().uploading(), Agent(outbox={T1: offer()}, outbox_run=RUN).ready()):
        assert agent.hear(m.Committed(1, 2)) == [we.Forget(T1), failed("CANCELLED", "on request")]
        assert not agent.state.hand.tasks


def test_cancel_of_another_task_is_ignored() -> None:
    for agent in (Agent().ready(), Agent().working(), Agent().uploading()):
        assert agent.hear(m.Cancel(T2, "deadline")) == []


def test_a_verdict_on_a_task_at_work_stops_it() -> None:
    """After a new link: somebody else has it by now."""
    agent = Agent().working()
    assert agent.hear(verdict("LATE")) == [we.Halt()]
    assert agent.say(we.Broke("CANCELLED", "")) == [failed("CANCELLED", "")]


@pytest.mark.parametrize("code", ["CRASHED", "OOM", "DATA", "NONFINITE", "ERROR"])
def test_a_trainer_that_breaks(code: Any) -> None:
    agent = Agent().working()
    assert agent.say(we.Broke(code, "x" * 1000)) == [failed(code, "x" * 256)]
    assert not agent.state.hand.tasks
    assert agent.hear(tasks(T2)) == [we.Fetch(task(T2).adapter)]


def test_a_trainer_that_breaks_after_its_result_is_durable() -> None:
    agent = Agent().uploading()
    assert agent.say(we.Broke("CRASHED", "killed")) == []
    assert agent.hear(verdict("UPLOAD")) == [we.Upload(offer())]


def test_a_trainer_that_can_do_nothing_here_ends_the_agent() -> None:
    assert Agent().ready().say(we.Broke("MODEL", "no such base", fatal=True)) == [
        we.Send(m.Goodbye("no such base")),
        we.Exit(2, "no such base"),
    ]


def test_a_result_of_another_task_is_dropped() -> None:
    agent = Agent().working()
    assert agent.say(we.Finished(offer(T2))) == []
    assert Agent().ready().say(we.Finished(offer())) == []
    assert agent.state.outbox == {}


def test_an_unknown_event_is_our_bug() -> None:
    with pytest.raises(TypeError, match="unknown event"):
        Agent().say("event")
