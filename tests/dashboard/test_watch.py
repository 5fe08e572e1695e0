"""What a watched run is told of: all at first, then what has changed, and no less."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from made_runs import BEGIN, make_run

from fedmq.dashboard.logs import find_log_dir, log_files, log_tail
from fedmq.dashboard.watch import Watch
from fedmq.storage.journal import Journal
from fedmq.storage.run_folder import DATABASE
from fedmq.storage.timeline import timeline

_UPDATE = {"digest": "ab" * 32, "num_examples": 40, "num_tokens": 900, "num_steps": 5, "norm": 1.0, "bytes_up": 10}
_UPDATE |= {"train_loss": 2.0, "train_seconds": 3.0, "bytes_down": 20, "state_lost": False}


def _first(run: Path) -> Watch:
    watch = Watch(run)
    watch.first_look()
    return watch


def _told(watch: Watch, version: int = 0) -> dict[str, Any]:
    parts: dict[str, Any] = json.loads(watch.since(version))["parts"]
    return parts


def _spans(told: dict[str, Any], round: int) -> list[dict[str, Any]]:
    """The spans that a part stands for."""
    rows = range(len(told["start"]))
    columns = {name: told[name] if isinstance(told[name], list) else [told[name] for _ in rows] for name in told}
    return [
        {
            "kind": columns["kind"][i],
            "round": round,
            "who": told["names"][columns["who"][i]],
            "worker": told["workers"][columns["worker"][i]],
            "start": pytest.approx(told["begin"] + told["start"][i], abs=2e-3),
            "end": pytest.approx(told["begin"] + told["end"][i], abs=2e-3),
        }
        for i in rows
    ]


def test_after_each_step_of_a_run_only_what_it_changed_is_told_and_a_new_watch_knows_the_same(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", own_texts=True)
    watch, journal = _first(run), Journal.open(run / DATABASE)
    seen = _told(watch)
    score = {"version": 4, "worker": "w9", "num_tokens": 500, "num_examples": 20, "seconds": 0.5}
    steps = (
        (lambda: journal.open_round(4, [["client_0"], ["client_2"]]), {"round/4"}),
        (
            lambda: journal.add_update(round=4, client="client_2", started=4, worker="w7", **_UPDATE),
            {"round/4", "names"},
        ),
        (lambda: journal.add_update(round=4, client="client_0", started=3, worker="w0", **_UPDATE), {"round/4"}),
        (lambda: journal.freeze_round(4, ["client_0", "client_2"]), {"round/4"}),
        (lambda: journal.commit_round(4, "44" * 32), {"round/4", "head"}),
        (lambda: journal.put(num_trainable="7"), {"settings"}),
        (lambda: journal.add_evaluation(unit="client_1", loss_sum=900.0, **score), {"score/4"}),
        (lambda: journal.add_evaluation(unit="client_1", loss_sum=800.0, **score), {"score/4"}),
        (lambda: journal.add_evaluation(unit="client_0", loss_sum=700.0, **score), {"score/4"}),
        (lambda: journal.add_evaluation(unit="client_1", loss_sum=600.0, **score), {"score/4"}),
        (lambda: journal.add_generations(4, ["My order"], [" came"]), {"texts/4"}),
        (lambda: journal.add_note("warning", "late"), {"head"}),
        (lambda: journal.put(live=json.dumps({"awaited": [], "workers": []})), set()),
    )
    for step, changed in steps:
        version = watch.version
        step()
        watch.look()
        told = _told(watch, version)
        assert told.keys() == changed
        seen |= told
        assert seen == _told(_first(run))
    journal.close()
    assert seen["round/4"]["client"] == [0, 2]
    assert seen["score/4"]["losses"] == [1.4, 1.2]


def test_another_run_in_the_folder_is_told_from_the_start(tmp_path: Path) -> None:
    watch = _first(make_run(tmp_path / "run"))
    epoch = watch.epoch
    (tmp_path / "run" / DATABASE).unlink()
    watch.look()
    assert "is not a run's folder" in _told(watch)["trouble"]
    assert "round/3" in _told(watch)
    make_run(tmp_path / "other", rounds=1)
    shutil.copyfile(tmp_path / "other" / DATABASE, tmp_path / "run" / DATABASE)
    watch.look()
    assert (watch.epoch != epoch, "round/3" in _told(watch), _told(watch)["trouble"]) == (True, False, None)
    epoch = watch.epoch
    # In place: the same inode.
    (tmp_path / "run" / DATABASE).write_bytes((make_run(tmp_path / "third", rounds=2) / DATABASE).read_bytes())
    watch.look()
    assert (watch.epoch != epoch, "round/2" in _told(watch)) == (True, True)


def test_a_run_that_is_damaged_while_it_is_watched_stays_on_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    watch, whole = _first(run), (run / DATABASE).read_bytes()
    (run / DATABASE).write_bytes(b"x" * len(whole))
    watch.look()
    assert _told(watch)["trouble"]
    assert _told(watch)["round/3"]["client"]
    (run / DATABASE).write_bytes(whole)
    watch.look()
    assert _told(watch)["trouble"] is None


def test_a_look_that_fails_midway_tells_nothing_and_the_next_one_all(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    watch, journal = _first(run), Journal.open(run / DATABASE)
    version, score = watch.version, {"version": 3, "worker": "w0", "num_examples": 1, "seconds": 0.5}
    journal.add_update(round=3, client="client_9", started=3, worker="w7", **_UPDATE)
    journal.add_evaluation(unit="client_9", loss_sum="nonsense", num_tokens=5, **score)
    watch.look()
    assert _told(watch, version).keys() == {"trouble"}
    journal.add_evaluation(unit="client_9", loss_sum=5.0, num_tokens=5, **score)
    journal.close()
    watch.look()
    assert {"round/3", "score/3", "names"} <= _told(watch, version).keys()
    assert _told(watch) == _told(_first(run))


def test_an_older_copy_in_the_place_of_a_run_takes_back_what_is_not_in_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    older, watch = (run / DATABASE).read_bytes(), _first(run)
    journal = Journal.open(run / DATABASE)
    journal.open_round(4, [["client_0"]])
    journal.close()
    watch.look()
    assert "round/4" in _told(watch)
    (tmp_path / "older").write_bytes(older)
    (tmp_path / "older").replace(run / DATABASE)
    watch.look()
    assert _told(watch) == _told(_first(run))
    (tmp_path / "part").write_bytes(older[: len(older) * 4 // 5])
    (tmp_path / "part").replace(run / DATABASE)
    watch.look()
    assert _told(watch)["head"]["damage"]


def test_a_timeline_is_of_the_rounds_that_were_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    told, journal = json.loads(_first(run).timeline(2, 2)), Journal.open(run / DATABASE, read_only=True)
    spans = [span for span in timeline(journal) if span["round"] == 2]
    journal.close()
    assert spans == _spans(told, 2)
    assert told["begin"] > BEGIN


def test_logs_are_followed_and_nothing_beside_them_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    (folder / "w0").mkdir(parents=True)
    (tmp_path / "secret.log").write_text("secret")
    (folder / "link.log").symlink_to(tmp_path / "secret.log")
    (folder / "key.txt").write_text("secret")
    (folder / "w0" / "trainer.log").write_text("one\n\x1b[31mtwo\nhal")
    (folder / "\x1b[2J.log").write_text("a name that is a command")
    (folder / os.fsdecode(b"\xff.log")).write_text("a name that is no text")
    assert log_files(folder) == ["w0/trainer.log"]
    for name in ("link.log", "key.txt", "../secret.log", str(tmp_path / "secret.log")):
        assert log_tail(folder, name, None) is None
    tail = log_tail(folder, "w0/trainer.log", None)
    assert tail is not None
    assert tail["text"] == "one\n\N{REPLACEMENT CHARACTER}[31mtwo\n"
    with open(folder / "w0" / "trainer.log", "a") as log:
        log.write("f\n")
    assert log_tail(folder, "w0/trainer.log", tail["end"]) == tail | {
        "start": tail["end"],
        "end": tail["end"] + 5,
        "text": "half\n",
    }
    (folder / "w0" / "trainer.log").write_text("anew\n" * 20_000)
    tail = log_tail(folder, "w0/trainer.log", None)
    assert tail is not None
    assert (tail["end"], tail["text"][:5], len(tail["text"]) <= 65536) == (100_000, "anew\n", True)


def test_logs_of_a_run_are_looked_for_where_it_lies_and_elsewhere_only_where_it_was_made(tmp_path: Path) -> None:
    beside, elsewhere, run = tmp_path / "logs", tmp_path / "elsewhere" / "logs", tmp_path / "run"
    elsewhere.mkdir(parents=True)
    config = {"output_dir": str(run), "log_dir": str(elsewhere)}
    assert find_log_dir(run, config, None) == elsewhere
    assert find_log_dir(tmp_path / "copy", config, None) is None
    beside.mkdir()
    assert find_log_dir(run, config, None) == elsewhere
    assert find_log_dir(tmp_path / "copy", config, None) == beside
    assert find_log_dir(tmp_path / "copy", config, tmp_path) == tmp_path
