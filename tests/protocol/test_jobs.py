"""Names of tasks: one text for one attempt at one job, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from fedmq.protocol.fields import ClientId, TaskId
from fedmq.protocol.jobs import Job, JobState, Status, parse_task, task_id
from fedmq.protocol.policy import RoundPolicy

_TASK = TypeAdapter(TaskId)
_UNITS = st.sampled_from(["test", "prompts", "adapter"]) | st.from_regex(r"\Aclient_[A-Za-z0-9_.-]{1,57}\Z")


@given(
    st.sampled_from(["init", "train", "evaluate", "generate"]), st.integers(0, 10**9 - 1), _UNITS, st.integers(0, 99)
)
def test_a_task_names_its_job_and_attempt(kind: str, round: int, unit: str, attempt: int) -> None:
    job = Job(kind, round, unit)
    task = task_id(job, attempt)
    assert parse_task(task) == (job, attempt)
    assert _TASK.validate_python(task) == task, "it travels"
    assert "/" not in task and not task.startswith("."), "it names a file"


@given(st.from_regex(r"\A[a-z]{1,16}-[0-9]{1,9}-[A-Za-z0-9_.-]{1,64}-[0-9]{1,6}\Z"))
def test_every_task_that_a_peer_may_name_can_be_parsed(task: str) -> None:
    _TASK.validate_python(task)
    job, attempt = parse_task(task)
    assert (job.round, attempt) == (int(task.split("-")[1]), int(task.rsplit("-")[-1]))
    assert job.unit


def test_client_names_are_folder_names() -> None:
    client = TypeAdapter(ClientId)
    for name in ("client_3", "client_Dr.Müller".replace("ü", "u"), "client_a-b_c.d"):
        assert client.validate_python(name) == name
    for name in ("3", "client_", "client_a/b", "client_a\\b", "client_ ", "client_ä", ".client_1", "client_1\n"):
        with pytest.raises(ValueError, match="pattern"):
            client.validate_python(name)


def test_a_result_is_wanted_until_there_is_one() -> None:
    job = Job("train", 1, "client_1")
    state = JobState(job, (job,))
    assert state.unfinished
    for status, unfinished in ((Status.ASSIGNED, True), (Status.DONE, False), (Status.FAILED, False)):
        state.status = status
        assert state.unfinished is unfinished


@pytest.mark.parametrize(("quorum", "cohort"), [(0, 3), (4, 3), (-1, 1)])
def test_a_policy_that_no_round_can_keep(quorum: int, cohort: int) -> None:
    with pytest.raises(ValueError, match="1 <= quorum <= cohort"):
        RoundPolicy(num_rounds=1, cohort=cohort, quorum=quorum)
