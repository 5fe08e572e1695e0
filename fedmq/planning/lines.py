"""A plan for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fedmq.planning.drawing import mean
from fedmq.storage.metrics import readable_size

_SHOWN = 20


def plan_lines(plan: dict[str, Any]) -> Iterator[str]:
    """What it says; estimates are named so."""
    clients, each, run, memory, measured = (plan[k] for k in ("clients", "round", "run", "memory", "calibration"))
    share = 100 * plan["num_trainable"] / max(1, plan["num_parameters"])
    yield (
        f"plan: {len(clients)} clients, {run['rounds']} rounds of {each['clients']:g}; {plan['workers']} local "
        f"worker{'s' if plan['workers'] > 1 else ''} on {plan['device']}"
    )
    yield f"      LoRA trains {plan['num_trainable']:,} of {plan['num_parameters']:,} parameters ({share:.2f} %)"
    for client in clients[:_SHOWN]:
        yield (
            f"      {client['client_id']:<12} {client['num_examples']:>6} texts  {client['steps']:>5} steps a round  "
            f"{client['num_tokens']:>8} tokens  up {readable_size(client['bytes_up'])}"
        )
    if len(clients) > _SHOWN:
        rest = clients[_SHOWN:]
        texts = f"{mean(c['num_examples'] for c in rest):.0f} texts, {mean(c['steps'] for c in rest):.0f} steps"
        yield f"      ... and {len(rest)} more clients, on average {texts}"
    up, down = readable_size(each["bytes_up"]), readable_size(each["bytes_down"])
    first = (
        ""
        if each["bytes_down_first"] == each["bytes_down"]
        else (f" (the first: {readable_size(each['bytes_down_first'])})")
    )
    if run["rounds"]:
        yield f"a round: {each['steps']:.0f} steps, {each['num_tokens']:,.0f} tokens; up {up}, down {down}{first}"
        yield f"         about {_duration(each['seconds'])}"
    up, down = readable_size(run["bytes_up"]), readable_size(run["bytes_down"])
    yield f"in all:  {run['num_tokens']:,.0f} tokens; up {up}, down {down}"
    yield f"         about {_duration(run['seconds'])}, of which {_duration(run['prepare_s'])} before the first round"
    if memory["worker"] is None:
        yield "memory:  not known here"
    else:
        yield (
            f"memory:  about {_memory(memory['worker'])} for each of {plan['workers']} workers, "
            f"{_memory(memory['coordinator'])} for the coordinator; of a GPU it was not measured"
        )
    yield (
        f"measured on this machine, by {measured['steps']} optimiser steps in {measured['seconds']:.1f} s of "
        f"{measured['trainers']} trainers at once; time and memory are estimates, bytes are those of the codecs"
    )
    yield f"nothing was trained for the run, and nothing written to {plan['output_dir']}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _memory(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB"
