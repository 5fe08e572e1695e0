"""How a run is made again, and whether its model is then the same."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from fedmq.protocol.printable import escaped
from fedmq.report.series import Found


def command(found: Found) -> str:
    """For a shell, with the run's configuration saved as config.json.

    Example:
      >>> command({"provenance": {"speeds": {"client_3": 0.1}}})
      'fedmq run config.json --virtual-clock --speed client_3=0.1 --output-dir NEW_FOLDER'
    """
    words, speeds = ["fedmq", "run", "config.json"], found["provenance"]["speeds"]
    if speeds is not None:
        words.append("--virtual-clock")
        words += [word for client, speed in speeds.items() for word in ("--speed", f"{client}={speed!r}")]
    return escaped(shlex.join([*words, "--output-dir", "NEW_FOLDER"]))


def caveats(found: Found) -> Iterator[str]:
    """Why the same model does not come of it, a sentence each; nothing of a run whose model does.

    Example:
      >>> made = {"config": {"federated": {"mode": "async"}}, "speeds": None, "aggregator": None}
      >>> list(caveats({"status": "done", "provenance": made | {"data_file": "a.csv", "client_data_digests": {}}}))
      ['Whose update comes when decides the result under federated.mode async: another run gives another model.']
    """
    made = found["provenance"]
    federated: dict[str, Any] = made["config"].get("federated", {})
    # Of a damaged one it may not be known.
    if found["status"] not in ("done", "unknown"):
        yield "This run has not ended: what has its digest below is no result yet."
    if made["speeds"] is None and (mode := federated.get("mode", "sync")) != "sync":
        yield (
            f"Whose update comes when decides the result under federated.mode {escaped(mode)}: another run gives "
            "another model."
        )
    elif made["speeds"] is None and federated.get("round_deadline_s") is not None:
        yield "Who comes before federated.round_deadline_s decides the result: another run may give another model."
    if made["aggregator"] is not None:
        yield (
            "Its rule was given from Python, as FederatedLearning(config, aggregator=...): "
            f"{escaped(made['aggregator'])}. The command has the rule that the configuration names."
        )
    if made["data_file"] is None and made["client_data_digests"]:
        yield (
            "Its data were at the workers: start `fedmq coordinator config.json` and workers with the data of the "
            "digests below in place of the command."
        )
