"""Opening OUTPUT_DIR: a new run, a resumed one, or a refusal that says what to do."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fedmq import atomic
from fedmq.errors import ConfigError, StorageError
from fedmq.storage.journal import Journal
from fedmq.storage.run_lock import LOCK, RunLock, is_same
from fedmq.storage.software import recorded

DATABASE = "run.db"
#: Where the run that --overwrite replaces waits until the new one has a model.
_ASIDE = ".overwritten"
#: What a run leaves in its folder, and --overwrite replaces. Shards in data/ are kept: they may serve again.
_OWN = (
    *("run.db-wal", "run.db-shm", "config.json", "blobs", "global_model", "workers", "client_states", "personal"),
    *("training_metrics.json", "global_metrics.json", "training_progress.png", "report.html", "report"),
    *("metrics.jsonl", "tracking"),
)


def new_meta(config: str, decisive: str) -> dict[str, str]:
    """The meta values that a new journal starts with: the run's identity, its secret, its config and its software."""
    return {
        "run": secrets.token_hex(16),
        "secret": secrets.token_hex(16),
        "epoch": "0",
        "config": config,
        "decisive": decisive,
        "status": "running",
        "reason": "",
        "started_at": repr(time.time()),
        "software": recorded(None),
    }


class OpenRun(NamedTuple):
    """A run's folder that this process may write.

    Attributes:
      finished: there is nothing left to do.
      created: there was no run here before.
      database: of run.db.
    """

    journal: Journal
    lock: RunLock
    finished: bool
    created: bool
    database: os.stat_result

    def is_there(self) -> bool:
        """Whether the folder is still this run's: it, or run.db, may have been removed, moved or replaced."""
        return self.lock.is_there() and is_same(self.journal.path, self.database)

    def let_go(self) -> None:
        """Others may have the folder. Of a run that ended in order, run.db is all of the journal, and may go alone."""
        try:
            if self.is_there() and self.journal.get("status") in ("done", "interrupted"):
                self.journal.fold_log()
        finally:
            self.lock.release()

    def watched(self, failure: Callable[[], str | None] | None) -> Callable[[], str | None]:
        """That question, if there is one, and before it: is the folder still this run's? Else it raises StorageError.

        Going on, the run would write into another's folder, and all that it accepts would be lost at its end.
        """

        def asked() -> str | None:
            if not self.is_there():
                raise StorageError(
                    f"{self.journal.path.parent} or its {DATABASE} was removed, moved or replaced while its run was at "
                    "work, and nothing more is written there: put it back and --resume, or start anew"
                )
            return failure() if failure else None

        return asked


def open_run(folder: Path, config: str, decisive: str, *, resume: bool, overwrite: bool) -> OpenRun:
    """Make or resume the run in `folder`.

    Args:
      folder: OUTPUT_DIR.
      config: JSON text.
      decisive: JSON text of the settings in it that decide the result, keys sorted.
      resume: go on with what is there; starts the run if there is nothing.
      overwrite: set aside what is there; `settle` removes it or brings it back.

    Raises:
      ConfigError: there is a run already and neither was asked for, or it is of another config, or the folder
        holds a config.json that is not a run's.
      StorageError: another coordinator has it, or run.db cannot be read.
    """
    if resume and overwrite:
        raise ConfigError("--resume goes on with a run, --overwrite removes it: give one of them")
    lock, begun = RunLock(folder), False
    try:
        settle(folder)
        if overwrite and (folder / DATABASE).is_file():
            _set_aside(folder)
        if not (folder / DATABASE).is_file():
            if (folder / "config.json").exists() and not overwrite:
                raise ConfigError(
                    f"{folder} holds a config.json, but no run: give another output_dir, or --overwrite to replace it"
                )
            begun = True
            journal = Journal.create(folder / DATABASE, new_meta(config, decisive))
            atomic.write_json(folder / "config.json", json.loads(config))
            return OpenRun(journal, lock, finished=False, created=True, database=journal.path.stat())
        journal = Journal.open(folder / DATABASE)
        finished = journal.get("status") == "done"
        if journal.require("decisive") != decisive:
            names = ", ".join(differences(json.loads(journal.require("decisive")), json.loads(decisive)))
            raise ConfigError(
                f"{folder} holds a run of another config (other: {names}): "
                "give another output_dir, --overwrite to replace that run, or its own config with --resume"
            )
        if not resume:
            state = "a finished run" if finished else "an unfinished run"
            raise ConfigError(
                f"{folder} holds {state} of this config: --resume goes on with it, --overwrite starts anew"
            )
        if not finished:
            journal.put(
                epoch=str(int(journal.require("epoch")) + 1),
                status="running",
                reason="",
                live="{}",
                software=recorded(journal.get("software")),
            )
        atomic.write_json(folder / "config.json", json.loads(journal.require("config")))
        return OpenRun(journal, lock, finished, created=False, database=journal.path.stat())
    except BaseException:
        try:
            if begun:
                _remove_run(folder)
            settle(folder)
        finally:
            _let_go(lock, folder)
        raise


def discard(run: OpenRun, folder: Path) -> None:
    """Remove a run that came to nothing, so that the same command, corrected, finds the folder as it was."""
    run.journal.close()
    _remove_run(folder)
    settle(folder)
    if (folder / DATABASE).is_file():
        return
    run.lock.remove()
    if not any(folder.iterdir()):
        folder.rmdir()


def _let_go(lock: RunLock, folder: Path) -> None:
    """Leave no folder that was made for the lock alone."""
    if lock.is_there() and [path.name for path in folder.iterdir()] == [LOCK]:
        lock.remove()
        folder.rmdir()
    else:
        lock.release()


def settle(folder: Path) -> None:
    """End an --overwrite, also one cut short by a crash: the old run goes if the new one has a model, else it is back.

    The caller has the folder's lock.
    """
    aside, database = folder / _ASIDE, folder / DATABASE
    if not aside.is_dir():
        return
    if database.is_file():
        try:
            committed = _has_model(database)
        except StorageError:
            # Whoever opens it is told; a new --overwrite replaces both.
            return
        if committed:
            shutil.rmtree(aside)
            return
        _remove_run(folder)
    # run.db comes last: until it is there, a crash in between is made good by doing this again.
    for path in sorted(aside.iterdir(), key=lambda path: path.name == DATABASE):
        if path.name != DATABASE:
            _remove(folder / path.name)
        atomic.rename(path, folder / path.name)
    atomic.fsync(folder)
    aside.rmdir()


def differences(a: Any, b: Any, path: str = "") -> Iterator[str]:
    """The names of the settings in which two configs differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from differences(a.get(key), b.get(key), f"{path}.{key}".lstrip("."))
    elif a != b:
        yield path


def _set_aside(folder: Path) -> None:
    aside, data = folder / _ASIDE, folder / "data"
    _remove(aside)
    aside.mkdir()
    if data.is_dir():
        # Stays for the new run, which may replace it; its files are never changed in place.
        shutil.copytree(data, aside / data.name, copy_function=_link)
    # run.db goes first: without it, `settle` brings back as much as has been moved.
    for path in _files_of_run(folder):
        atomic.rename(path, aside / path.name)
    atomic.fsync(folder)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _has_model(database: Path) -> bool:
    journal = Journal.open(database)
    try:
        return journal.last_committed() is not None
    finally:
        journal.close()


def _files_of_run(folder: Path) -> list[Path]:
    """What is there of a run, run.db first."""
    clients = [path for path in folder.glob("client_*") if any(path.glob("round_*"))]
    return [path for path in (folder / DATABASE, *(folder / name for name in _OWN), *clients) if path.exists()]


def _remove_run(folder: Path) -> None:
    # run.db last: a crash in between leaves a run without a model, which is removed again.
    for path in reversed(_files_of_run(folder)):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
