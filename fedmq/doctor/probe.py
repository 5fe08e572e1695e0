"""What torch and a base are on this host, found out in a process of its own: either may bring its process down.

`python -m fedmq.doctor.probe` reads {"device", "config" or null} from standard input, and prints a line for each part.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from typing import Any

from fedmq.config import ExperimentConfig
from fedmq.errors import FedmqError

#: Width of the layers that both number formats are timed on, where no base says another.
_WIDTH = 768


def probe(device: str, config: ExperimentConfig | None) -> dict[str, Any]:
    """What a process of its own found: the keys that it came to, and "ended", how it ended where that was too soon.

    Args:
      device: as in a config.
      config: with the base that is to be loaded; None loads none.
    """
    asked = json.dumps({"device": device, "config": None if config is None else config.to_dict()})
    # What is not on this host is not fetched: that would take minutes, and gigabytes.
    offline = {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", __name__], input=asked, capture_output=True, text=True, env=os.environ | offline
    )
    found: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        code = done.returncode
        found["ended"] = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {last or code}"
    return found


def main() -> None:
    """Entry point of that process."""
    asked = json.loads(sys.stdin.read())
    from fedmq.learning.devices import resolve_device
    from fedmq.learning.precision import faster_dtype, require_precision

    try:
        device, note = resolve_device(asked["device"])
    except FedmqError as error:
        _say(device_error=str(error))
        return
    faster = "bf16" if device != "mps" and str(faster_dtype(device, _WIDTH)) == "torch.bfloat16" else "fp32"
    _say(device=device, note=note, faster=faster)
    if asked["config"] is None:
        return
    config = ExperimentConfig.from_dict(asked["config"])
    spec = config.to_run_spec()
    from fedmq.learning.models import LanguageModel
    from fedmq.learning.tokenizer import find_folder

    try:
        precision = require_precision(spec.training, device)
        _say(folder=str(find_folder(spec.model.name, config.model.cache_dir)))
        model = LanguageModel.load(
            spec.model.name,
            spec.lora,
            max_length=spec.model.max_length,
            seed=spec.seed,
            device=device,
            cache_dir=config.model.cache_dir,
            engine=spec.training.engine,
            precision=precision,
        )
    except FedmqError as error:
        _say(model_error=str(error), exit_code=error.exit_code)
        return
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _say(
        digest=model.base_digest,
        engine=model.engine_note,
        num_parameters=model.num_parameters,
        num_trainable=model.num_trainable,
        # kilobytes, but on macOS
        peak_nbytes=peak if sys.platform == "darwin" else peak * 1024,
    )


def _say(**found: Any) -> None:
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
