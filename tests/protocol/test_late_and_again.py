"""What comes late or twice: evaluators after the start, attempts at one job, welcomes while loading."""

from __future__ import annotations

import dataclasses

import pytest
from agent import PREPARED, WELCOME, Agent, announced, offer
from drive import Drive, ready

from fedmq.protocol import events as ev
from fedmq.protocol import messages as m
from fedmq.protocol import worker_events as we
from fedmq.protocol.fields import MAX_OUTBOX


def dispatched(commands: list[ev.Command]) -> list[str]:
    return [task for command in commands if isinstance(command, ev.Dispatch) for task in command.tasks]


def test_a_test_shard_that_comes_late_scores_the_first_and_the_newest_version() -> None:
    drive = Drive(rounds=3, cohort=1, expected=1)
    drive.opened(ready("a", "client_0"), clients=("client_0",))
    drive.stored("a", "train-1-client_0-0", "d")
    drive.say(ev.Committed(1))
    drive.say(ev.Selected(2, ("client_0",)))
    drive.stored("a", "train-2-client_0-0", "d")
    drive.say(ev.Committed(2))
    assert drive.state.evaluations.pending() == {0, 2}, "their adapters must stay"
    assert dispatched(drive.say(ready("b", test=True))) == ["evaluate-0-test-0"]
    assert dispatched(drive.stored("b", "evaluate-0-test-0")) == ["evaluate-2-test-0"]
    drive.stored("b", "evaluate-2-test-0")
    assert drive.state.evaluations.pending() == set()


def test_a_client_that_is_gone_is_not_evaluated() -> None:
    drive = Drive(rounds=2, cohort=1, expected=2)
    owners = [
        ready(name, client, held_out=frozenset({client})) for name, client in (("a", "client_0"), ("b", "client_1"))
    ]
    drive.opened(*owners, clients=("client_0",))
    drive.stored("a", "evaluate-0-client_0-0")
    drive.say(ev.WorkerGone("b", "left"))
    drive.until(250.0, "a")
    assert drive.state.roster.gone == {"client_1"}
    drive.stored("a", "train-1-client_0-0", "d")
    drive.say(ev.Committed(1))
    assert [state.job.unit for state in drive.state.roster.of_kind("evaluate")] == ["client_0"]


def test_no_attempt_is_named_twice() -> None:
    drive = Drive(rounds=1, cohort=1, expected=1)
    drive.opened(ready("a", "client_0"), clients=("client_0",))
    drive.say(ready("b", "client_0"))
    assert dispatched(drive.say(ev.WorkerGone("a", "left"))) == ["train-1-client_0-1"]
    # Attempt 1 is lost too; a comes back and still works on attempt 0, then is lost for good.
    drive.say(ev.WorkerGone("b", "left"))
    drive.say(ready("a", "client_0", running=("train-1-client_0-0",)))
    drive.say(ev.WorkerGone("a", "left"))
    assert dispatched(drive.say(ready("c", "client_0"))) == ["train-1-client_0-2"]


def test_a_link_lost_while_loading_does_not_make_the_trainer_begin_again() -> None:
    agent = Agent()
    agent.say(we.Tick())
    assert agent.hear(WELCOME) == [we.Prepare(WELCOME)]
    agent.hear(m.Reject("REHELLO", "", ()))
    assert agent.hear(dataclasses.replace(WELCOME, epoch=WELCOME.epoch + 1)) == []
    assert agent.say(PREPARED) == [announced()]


@pytest.mark.parametrize(("code", "exit_code"), [("DATA", 2), ("MODEL", 2), ("CRASHED", 1), ("OOM", 1), ("ERROR", 1)])
def test_only_configuration_and_data_end_a_worker_with_2(code: str, exit_code: int) -> None:
    commands = Agent().ready().say(we.Broke(code, "why", fatal=True))  # type: ignore[arg-type]
    assert commands[-1] == we.Exit(exit_code, "why")


def test_a_full_outbox_is_offered_whole_though_not_named_whole() -> None:
    tasks = [f"train-1-client_{k}-0" for k in range(MAX_OUTBOX + 3)]
    agent = Agent(outbox={task: offer(task) for task in tasks}, outbox_run=WELCOME.run)
    agent.say(we.Tick())
    agent.hear(WELCOME)
    said = [command.message for command in agent.say(PREPARED)]
    assert said[0].outbox == tuple(tasks[:MAX_OUTBOX])
    assert [message.task for message in said[1:]] == tasks
