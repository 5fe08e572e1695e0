"""The wiring of a run by a virtual clock."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path

from fedmq.build import generates, round_policy
from fedmq.config import ExperimentConfig
from fedmq.errors import ConfigError
from fedmq.protocol.coordinator_state import CoordinatorState
from fedmq.protocol.trainer_link import Setup, Source
from fedmq.runtime.child import TRAINER, TrainerProcess
from fedmq.runtime.client_states import FOLDER
from fedmq.runtime.local import num_cores
from fedmq.runtime.server import FederatedServer
from fedmq.runtime.view import View
from fedmq.runtime.virtual import NEVER, VirtualRun
from fedmq.storage import personal


def virtual_run(
    config: ExperimentConfig,
    server: FederatedServer,
    view: View,
    named: frozenset[str],
    speeds: Mapping[str, float],
) -> VirtualRun:
    """The same run by a virtual clock, with its trainer; `speeds` in examples a second, by client.

    Raises:
      ConfigError: a speed is none, or of no client; or the run has begun, and its calendar is lost.
    """
    if server.journal.last_committed() is not None:
        raise ConfigError(f"{server.run_dir}: a run by a virtual clock cannot be resumed; --overwrite begins anew")
    for client, speed in speeds.items():
        if client not in named:
            near = difflib.get_close_matches(client, named, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {len(named)}, such as {min(named)}"
            raise ConfigError(f"the speed of {client}: this run has no such client; {hint}")
        if not (math.isfinite(speed) and speed > 0):
            raise ConfigError(f"the speed of {client}: got {speed:g}, expected a number > 0 of examples a second")
    work_dir, log_dir = server.run_dir / "workers" / "virtual", Path(config.log_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    state = CoordinatorState(
        round_policy(config),
        NEVER,
        expected=config.federated.num_clients,
        named=named,
        generates=generates(config),
    )
    setup = Setup(
        spec=config.to_run_spec(),
        sources=(Source(str(server.run_dir / "data"), None),),
        device=config.device,
        model=None,
        cache_dir=config.model.cache_dir,
        work_dir=str(work_dir),
        log_dir=str(log_dir),
        state_dir=str(server.run_dir / FOLDER),
        personal_dir=str(server.run_dir / personal.FOLDER),
    )
    trainer = TrainerProcess(TRAINER, config.training.num_threads or num_cores(), log_dir / "trainer.log")
    return VirtualRun(state, server, setup.spec, view, trainer, setup, speeds)
