"""What of the rest of section `federated` each `lora_aggregation` goes with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fedmq.config_section import options_conflict
from fedmq.recipe import CodecSpec

#: those that take clients whose adapters have different ranks
OF_RANKS = ("flexlora", "flora", "hetlora")
_LOSES = "what it loses of the adapter is not in what is merged into the base"
_ANEW = "the factors begin anew in each round"
#: rule -> setting -> what it has to be, and why
_NEEDS: dict[str, dict[str, tuple[Any, str]]] = {
    "fed_sb": {"download_codec": ("fp32", "what takes the place of B and A after round 2 has to arrive to the bit")},
    "fedex": {"download_codec": ("fp32", _LOSES)},
    "flora": {
        "download_codec": ("fp32", _LOSES),
        "server_optimizer": ("none", _ANEW),
        "server_optimizer_options": ({}, _ANEW),
    },
}


def conflict(federated: Mapping[str, Any], upload: CodecSpec) -> str | None:
    """Why the `lora_aggregation` of these settings cannot be used as they are; None if it can.

    Args:
      federated: the section.
      upload: how its updates travel.
    """
    name, options, method = (
        federated[f] for f in ("lora_aggregation", "lora_aggregation_options", "aggregation_method")
    )
    if name == "fedit" and not options:
        return None
    if name != "fedit" and method != "fedavg":
        return (
            f'federated.lora_aggregation: "{name}" averages by itself, aggregation_method "{method}" would not be '
            "used; set one of them to its default"
        )
    for setting, (needed, reason) in _NEEDS.get(name, {}).items():
        if (value := federated[setting]) != needed:
            return (
                f'federated.lora_aggregation: "{name}" does not go with {setting} {json.dumps(value)}: {reason}; '
                f"set {setting} {json.dumps(needed)} first"
            )
    import numpy as np  # which most commands have no use for

    from fedmq.algorithms import lora_aggregate
    from fedmq.algorithms.lora_sb import LAST_SKETCH
    from fedmq.codec.update import update_codec

    if name == "fed_sb" and (rounds := federated["num_rounds"]) <= LAST_SKETCH:
        return (
            f'federated.lora_aggregation: "fed_sb" trains R from round {LAST_SKETCH + 1} on, and num_rounds is '
            f"{rounds}; set it to {LAST_SKETCH + 1} or more, or another lora_aggregation"
        )
    if name == "flora" and update_codec(upload).init({"A": np.zeros(1, np.float32)}):
        return (
            f'federated.lora_aggregation: "flora" does not go with error feedback of upload_codec: {_ANEW}, what '
            'the last ones lost is of no use to them; set upload_codec_options {"error_feedback": false} first'
        )
    return options_conflict("federated.lora_aggregation_options", name, options, lora_aggregate.BY_NAME[name])
