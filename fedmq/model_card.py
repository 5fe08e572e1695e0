"""The README.md of an exported model: what it is, how to load it, what it was made of. Of texts it says nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedmq.protocol.printable import escaped

Found = Mapping[str, Any]

#: That come with fedmq, and are on no hub.
_BUNDLED = "fedmq-tiny"
_UNKNOWN = "[not recorded]"


def model_card(found: Found, version: int, *, merged: bool, local_base: str | None, client: str | None = None) -> str:
    """Markdown with the metadata of the Hugging Face hub on top.

    Args:
      found: the run, from `fedmq.inspection.inspect_run`.
      version: of the global model.
      merged: the base holds the adapter; else it is the adapter alone.
      local_base: the folder that the base is in, where it is one of this machine.
      client: whose own model it is, where each has its own.
    """
    from huggingface_hub import ModelCardData

    config, made = found["provenance"]["config"], found["provenance"]
    name = config["model"]["model_name"]
    # The hub takes ids of its own only.
    on_hub = local_base is None and name != _BUNDLED and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)
    known_as = name if on_hub else None
    link = [] if merged or known_as is None else [f"base_model:adapter:{known_as}"]
    data = ModelCardData(
        base_model=known_as,
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        tags=["lora", *([] if config["baseline"]["kind"] else ["federated-learning"]), "fedmq", *link],
    )
    text = "\n".join(_body(found, version, merged, _code(name, local_base, merged, config["generation"]), client, made))
    return f"---\n{data.to_yaml()}\n---\n\n{text}\n"


def _body(found: Found, version: int, merged: bool, code: str, client: str | None, made: Found) -> Iterator[str]:
    config, name = made["config"], Path(made["config"]["model"]["model_name"]).name
    yield f"# {escaped(found['experiment_name'])}\n"
    what = f"{name} with a LoRA adapter merged into it" if merged else f"A LoRA adapter for {name}"
    whose = f" It is {client}'s own: each client has a model for itself." if client else ""
    how, privacy = _federation(made)
    yield f"{what}, fine-tuned with fedmq {how}.{whose}\n"
    yield "## How to load it\n"
    yield "In this folder (or with its id on the hub in place of `.`):\n"
    yield f"```python\n{code}```\n"
    yield "## Training data\n"
    yield from _table(_data_rows(made, client))
    yield "No text is part of this card. What the texts are, and who wrote them: [to be filled in].\n"
    yield "## Training\n"
    yield from _table(_training_rows(found, version, name, client, made))
    yield "## Evaluation\n"
    yield from _evaluation(found, version, client)
    yield "## Intended use and limits\n"
    yield (
        "[to be filled in] It has been scored on nothing but what the table above says. It repeats what its texts and "
        "its base hold, errors and insults among them.\n"
    )
    yield "## Privacy\n"
    yield (
        f"{privacy} Whether something of the texts can be found out from this model has not been examined, and no "
        "noise was added that would bound it. [to be filled in: consent, legal basis, who may use it]\n"
    )
    yield "## Licence\n"
    licence = (
        "fedmq-tiny is CC0-1.0; the" if config["model"]["model_name"] == _BUNDLED else f"The licence of {name} and the"
    )
    yield f"[to be filled in] {licence} rights in the texts apply.\n"
    yield "## Software\n"
    for entry in made["software"][-1:]:
        yield ", ".join(f"{package} {number}" for package, number in entry.items())


def _federation(made: Found) -> tuple[str, str]:
    """How the clients came to their texts, and who could see these: nobody is told of a privacy that was not there."""
    simulated = "One machine had all texts, and its clients were simulated: nothing was kept from anybody."
    baseline = made["config"]["baseline"]["kind"]
    if baseline:
        what = {"central": "on all texts at one place", "local": "each client alone", "zero-shot": "in no round at all"}
        return f"without a federation, {what[baseline]}, as what a federated run is compared with", simulated
    if made["data_file"]:
        return "by simulated federated learning: the texts of one file were dealt to clients on one machine", simulated
    return (
        "by federated learning: each client trained on texts of its own, where its worker has them",
        "Texts stayed with the workers of their clients; adapters did not.",
    )


def _training_rows(found: Found, version: int, name: str, client: str | None, made: Found) -> dict[str, str]:
    config = made["config"]
    lora, training, federated = config["lora"], config["training"], config["federated"]

    def method(setting: str, options: str) -> str:
        given = ", ".join(f"{option} {value}" for option, value in federated[options].items())
        return f"{federated[setting]} ({given})" if given else str(federated[setting])

    cohort = f"{federated['clients_per_round']} of {federated['num_clients']} clients"
    who = {"sync": f"{cohort} in each", "semi_sync": f"{cohort} asked for in each", "async": f"{cohort} at a time"}
    aggregation = (
        f"{method('aggregation_method', 'aggregation_options')}, LoRA factors "
        f"{method('lora_aggregation', 'lora_aggregation_options')}"
    )
    rows = {
        "base model": f"{name}, SHA-256 of its weights `{made['base_digest'] or _UNKNOWN}`",
        "method": f"{aggregation}, weighted by {federated['weighting']}, mode {federated['mode']}, "
        f"server optimiser {method('server_optimizer', 'server_optimizer_options')}, "
        f"local method {method('local_method', 'local_method_options')}",
        "rounds": f"{version} of {federated['num_rounds']}, {who[federated['mode']]}",
        "LoRA": f"r {lora['r']}, lora_alpha {lora['lora_alpha']}, dropout {lora['lora_dropout']}, "
        f"target modules {', '.join(lora['target_modules'])}",
        "local training": f"epochs a round: {training['num_epochs']}, {training['local_optimizer']}, batch size "
        f"{training['batch_size']}, learning rate {training['learning_rate']:g}, texts cut to "
        f"{config['model']['max_length']} tokens",
        "trained parameters": f"{_count(made['num_trainable'])} of {_count(made['num_parameters'])}",
        "seed": str(made["seed"]),
    }
    # A client's own has none in run.db.
    return rows if client else rows | {"adapter of the run": f"SHA-256 `{_digest(found, version)}`"}


def _count(number: int | None) -> str:
    return _UNKNOWN if number is None else f"{number:,}"


def _data_rows(made: Found, client: str | None) -> dict[str, str]:
    config, clients = made["config"], made["clients"]
    examples, tokens = ([known[what] for known in clients.values()] for what in ("num_examples", "num_tokens"))
    rows = {"clients": str(len(clients))}
    if clients:
        rows["texts"] = f"{sum(examples):,}, {min(examples):,} to {max(examples):,} a client"
        rows["tokens"] = f"{sum(tokens):,}, {min(tokens):,} to {max(tokens):,} a client"
    if client is not None and client in clients:
        own = clients[client]
        rows[client] = f"{own['num_examples']:,} texts, {own['num_tokens']:,} tokens"
    if made["data_file"]:
        rows["file"] = f"{made['data_file']}, SHA-256 of what was made of it `{made['data_digest']}`"
    else:
        rows["file"] = "each client's own"
    if made["data_file"] and config["baseline"]["kind"] != "central":
        rows["dealt to clients"] = config["federated"]["data_distribution"]
    filters = config["data"]
    inbound = "only what customers wrote" if filters["filter_inbound_only"] else "all authors"
    rows["filters"] = f"{filters['filter_min_length']} characters or more, {inbound}"
    return rows


def _evaluation(found: Found, version: int, client: str | None) -> Iterator[str]:
    rows = []
    for at, what in ((0, "before training"), (version, f"after round {version}")):
        score = found["scores"].get(str(at))
        score = score.get("clients", {}).get(client) if score and client else score
        if score and (at or what == "before training"):
            counts = f"{score['num_examples']:,} | {score['num_tokens']:,}"
            rows.append(f"| {what} | {score['eval_loss']:.4f} | {score['perplexity']:.2f} | {counts} |")
    if not rows:
        yield "It was not scored.\n"
        return
    by_client = any("clients" in score for score in found["scores"].values())
    texts = "what clients held out of their texts" if by_client else "the test split"
    yield f"On {f'what {client} held out of its texts' if client else texts}, by the run itself:\n"
    yield "| | loss (nats per token) | perplexity | texts | tokens |\n|---|---|---|---|---|"
    yield from dict.fromkeys(rows)
    yield ""


def _table(rows: Mapping[str, str]) -> Iterator[str]:
    yield "| | |\n|---|---|"
    for name, value in rows.items():
        yield f"| {name} | {value.replace('|', chr(92) + '|')} |"
    yield ""


def _digest(found: Found, version: int) -> str:
    return next((row["digest"] for row in found["rounds"] if row["round"] == version), found["digest"] or _UNKNOWN)


def _code(name: str, local_base: str | None, merged: bool, generation: Found) -> str:
    lines, where = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""], '"."'
    if not merged:
        where = "base"
        lines.insert(0, "from peft import PeftModel")
        if local_base is not None:
            lines.append(f"base = {local_base!r}  # where it was: say where it is on your machine")
        elif name == _BUNDLED:
            lines[:0] = ["import importlib.resources", ""]
            lines.append(
                'base = str(importlib.resources.files("fedmq") / "assets" / "fedmq-tiny")  # it comes with fedmq'
            )
        else:
            lines.append(f"base = {name!r}")
    lines.append(f"tokenizer = AutoTokenizer.from_pretrained({where})")
    lines.append(f'model = AutoModelForCausalLM.from_pretrained({where}, dtype="float32")')
    if not merged:
        lines.append('model = PeftModel.from_pretrained(model, ".").eval()')
    sampling = f"do_sample=True, temperature={generation['temperature']}, top_k=0"
    sampling = sampling if generation["temperature"] else "do_sample=False"
    lines += [
        "",
        'inputs = tokenizer("Hello", return_tensors="pt")',
        f"output = model.generate(**inputs, max_new_tokens={generation['max_new_tokens']}, {sampling})",
        "print(tokenizer.decode(output[0], skip_special_tokens=True))",
        "",
    ]
    return "\n".join(lines)
