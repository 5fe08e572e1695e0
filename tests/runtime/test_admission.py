"""Who may take part: the same base for all, and one data set under one name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedmq import get_default_config
from fedmq.protocol import messages as m
from fedmq.runtime.admission import Admission, warm_up_too_long
from fedmq.storage.hosted import Hosted
from fedmq.storage.journal import Journal

BASE, OTHER_BASE = "ab" * 32, "cd" * 32
TRAINING = get_default_config().with_overrides(["training.warmup_steps=0"]).to_run_spec().training


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.create(tmp_path / "run.db", {})
    yield journal
    journal.close()


def ready(data: dict[str, str], base: str = BASE) -> m.Ready:
    """A worker that hosts these clients; the value is the first letter of the data's digest."""
    clients = tuple(m.HostedClient(client, 10, 100, 0, digit * 64) for client, digit in data.items())
    return m.Ready(clients, False, base, 294_912, 124_734_720, "cpu", (), ())


def code(refusal: m.Reject | None) -> str | None:
    return refusal.code if refusal else None


def test_workers_with_one_base_and_data_of_their_own(journal: Journal) -> None:
    admission = Admission(journal, (), "both")
    assert admission.check("w1", ready({"client_1": "a"})) is None
    assert admission.check("w2", ready({"client_2": "b"})) is None
    assert admission.check("w3", ready({"client_1": "a", "client_2": "b"})) is None, "two hosts of one client"


def test_another_base(journal: Journal) -> None:
    admission = Admission(journal, (), "both")
    admission.check("w1", ready({"client_1": "a"}))
    refusal = admission.check("w1", ready({"client_2": "b"}, OTHER_BASE))
    assert refusal is not None and refusal.code == "BASE"
    assert OTHER_BASE[:12] in refusal.text and BASE[:12] in refusal.text
    again = Admission(journal, (), "both")
    assert code(again.check("w1", ready({"client_2": "b"}, OTHER_BASE))) == "BASE", "also after a restart"


def test_other_data_under_a_name(journal: Journal) -> None:
    admission = Admission(journal, (), "both")
    admission.check("w1", ready({"client_1": "a"}))
    refusal = admission.check("w1", ready({"client_1": "b"}))
    assert refusal is not None and (refusal.code, "client_1" in refusal.text) == ("DATA", True)


def test_a_client_that_the_run_does_not_have(journal: Journal) -> None:
    admission = Admission(journal, {"client_1", "client_2"}, "both")
    assert admission.check("w1", ready({"client_1": "a"})) is None
    refusal = admission.check("w1", ready({"client_3": "c"}))
    assert refusal is not None and (refusal.code, "client_3" in refusal.text) == ("DATA", True)


@pytest.mark.parametrize(
    ("test", "held_out", "text"),
    [
        (True, 3, "it offers to score a model on the test shard, and this run has none of all"),
        (False, 0, "client_2 has no held-out text to score its own model on"),
    ],
)
def test_who_would_have_nobodys_own_model_scored(journal: Journal, test: bool, held_out: int, text: str) -> None:
    hosted = tuple(m.HostedClient(f"client_{k}", 10, 100, count, "a" * 64) for k, count in ((1, 3), (2, held_out)))
    said = replace(ready({}), clients=hosted, evaluates_test=test)
    refusal = Admission(journal, (), "A").check("w1", said)
    assert refusal is not None and refusal.code == "DATA" and refusal.text.startswith(text)
    assert journal.all_hosted() == {}
    assert Admission(journal, (), "both").check("w1", said) is None
    owner = replace(said, clients=hosted[:1], evaluates_test=False)
    assert Admission(journal, (), "A").check("w2", owner) is None


def test_a_worker_that_is_refused_decides_nothing(journal: Journal) -> None:
    admission = Admission(journal, {"client_1", "client_2"}, "both")
    assert code(admission.check("w1", ready({"client_1": "f", "client_9": "f"}, OTHER_BASE))) == "DATA"
    assert admission.check("w1", ready({"client_1": "a"}, BASE)) is None, "neither the base nor client_1's data"


def test_the_longest_client_name_fits_into_a_refusal(journal: Journal) -> None:
    name = "client_" + "x" * 57
    assert code(Admission(journal, {"client_1"}, "both").check("w1", ready({name: "a"}))) == "DATA"


def test_introductions(journal: Journal) -> None:
    admission = Admission(journal, (), "both")
    assert list(admission.introduce("w1", ready({"client_1": "a", "client_2": "b"}), TRAINING)) == [
        ("info", "w1 joined on cpu: 2 clients, 20 examples"),
        ("info", "LoRA trains 294,912 of 124,734,720 parameters (0.24 %)"),
    ]
    assert len(list(admission.introduce("w2", ready({}), TRAINING))) == 1, "said once a run"


def test_a_warm_up_that_never_ends_is_said(journal: Journal) -> None:
    # 10 texts in batches of 8, 3 epochs: 6 steps.
    long = replace(TRAINING, warmup_steps=4)
    lines = list(Admission(journal, (), "both").introduce("w1", ready({"client_1": "a"}), long))
    assert len(lines) == 3 and lines[2][0] == "warning"
    assert "warmup_steps is 4" in lines[2][1] and "more than 6 steps" in lines[2][1]
    assert warm_up_too_long(10, replace(TRAINING, warmup_steps=3)) is None
    assert warm_up_too_long(10, replace(long, gradient_accumulation_steps=2)) is not None


def test_who_hosts_a_client_is_kept(journal: Journal) -> None:
    Admission(journal, (), "both").check("w2", ready({"client_1": "a", "client_2": "b"}))
    Admission(journal, (), "both").check("w1", ready({"client_1": "a"}))
    Admission(journal, (), "both").check("w3", ready({"client_1": "f"}))
    second = Hosted(10, 100, ("w2",))
    assert journal.all_hosted() == {"client_1": Hosted(10, 100, ("w1", "w2")), "client_2": second}
    Admission(journal, (), "both").check("w2", ready({"client_2": "b"}))
    assert journal.all_hosted() == {"client_1": Hosted(10, 100, ("w1",)), "client_2": second}, "given away"
    journal.add_evaluation(version=0, unit="test", worker="w9", loss_sum=1.0, num_tokens=1, num_examples=1, seconds=1.0)
    assert journal.workers() == {"w1", "w2", "w9"}, "those that host somebody, and those that only evaluate"


def test_a_client_that_was_given_up_is_left_out_until_a_worker_that_hosts_it_is_admitted(journal: Journal) -> None:
    admission = Admission(journal, (), "both")
    admission.check("w1", ready({"client_1": "a"}))
    admission.leave_out("client_1")
    gone = Hosted(10, 100, ("w1",), gone=True)
    assert journal.hosted("client_1") == gone
    admission.check("w2", ready({"client_2": "b"}))
    assert journal.hosted("client_1") == gone, "that was another client"
    admission.check("w2", ready({"client_1": "a", "client_2": "b"}))
    assert journal.hosted("client_1") == Hosted(10, 100, ("w1", "w2"))
