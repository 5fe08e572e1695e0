"""Clients, their data and what becomes of their updates: section `federated` of a config."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from fedmq import config_lora, own_code
from fedmq.config_rounds import RoundsConfig
from fedmq.config_section import Options, Text, described, nearest, options_conflict
from fedmq.recipe import CodecSpec, LocalMethodSpec, Shared

AGGREGATIONS = (
    *("fedavg", "median", "trimmed_mean", "krum", "multi_krum", "bulyan"),
    *("geometric_median", "centered_clip", "norm_clip"),
)
_SHARED: dict[str, Shared] = {"fedsa": "A", "local": "none"}
SELECTIONS = ("uniform", "weighted", "round_robin", "power_of_choice", "oort")


def _known_or_reference(known: tuple[str, ...]) -> AfterValidator:
    """One of the known names, or `module:attribute`."""

    def check(value: str) -> str:
        if value in known or own_code.is_reference(value):
            return value
        raise ValueError(f"should be a known name or module:attribute; {nearest(value, known)}")

    return AfterValidator(check)


Distribution = Literal["iid", "non_iid", "by_author", "by_brand", "dirichlet", "quantity", "length"]
CodecName = Literal["fp32", "bf16", "fp16", "int8", "int4", "sign", "topk"]


class FederatedConfig(RoundsConfig):
    """Clients, rounds and aggregation."""

    data_distribution: Distribution = described(
        "iid",
        "how rows become shards: equal random parts; chunks by length; a client per author or per company; skewed in "
        "classes, sizes or lengths; docs/data.md",
    )
    distribution_options: Options = described(
        {}, "its options by name, such as alpha; what is missing takes its default"
    )
    selection: Annotated[Text, _known_or_reference(SELECTIONS)] = described(
        "uniform",
        f"which clients are drawn: {', '.join(SELECTIONS)}, or module:attribute of your own; docs/algorithms.md",
    )
    selection_options: Options = described({}, "its options by name, such as d; what is missing takes its default")
    aggregation_method: Annotated[Text, _known_or_reference(AGGREGATIONS)] = described(
        "fedavg",
        f"how updates become one: {', '.join(AGGREGATIONS)}, or module:attribute of your own; docs/algorithms.md",
    )
    aggregation_options: Options = described({}, "its options by name, such as f; what is missing takes its default")
    local_method: Literal["fedavg", "fedprox", "fednova", "feddyn", "scaffold"] = described(
        "fedavg", "what local training does against drift, beside lowering its loss; docs/algorithms.md"
    )
    local_method_options: Options = described({}, "its options by name, such as mu; what is missing takes its default")
    lora_aggregation: Literal[
        "fed_sb", "fedex", "fedit", "fedsa", "ffa", "flexlora", "flora", "hetlora", "local", "lora_fair", "rolora"
    ] = described(
        "fedit",
        "how the LoRA factors A and B of the updates become one pair; fedsa = A is averaged, B stays with its client: "
        "a model for each, none of all; local = nothing is averaged, each client trains alone; fed_sb = from round 3 "
        "on only R (r x r) between B and A is trained and sent; docs/algorithms.md",
    )
    lora_aggregation_options: Options = described({}, "its options by name; what is missing takes its default")
    server_optimizer: Literal["none", "avgm", "nesterov", "adagrad", "adam", "yogi"] = described(
        "none", "how the mean update moves the global model; docs/algorithms.md"
    )
    server_optimizer_options: Options = described(
        {}, "its options by name, such as lr and momentum; what is missing takes its default"
    )
    upload_codec: CodecName = described(
        "fp32", "how an update travels: fp32 = the adapter as it is, else its delta, in fewer bytes; docs/algorithms.md"
    )
    upload_codec_options: Options = described(
        {}, "its options by name, such as block and error_feedback; what is missing takes its default"
    )
    download_codec: CodecName = described(
        "fp32",
        "how the global adapter travels to a worker that holds the version before: fp32 = the tensors that moved, as "
        "they are; else its delta, in fewer bytes. To any other it goes whole; docs/algorithms.md",
    )
    download_codec_options: Options = described(
        {}, "its options by name, such as block; error_feedback, at the server, is true unless false"
    )
    min_samples_per_client: int = described(
        100, "by_author and by_brand: fewest training rows of a client", "rows", ge=1
    )
    num_workers: int | None = described(
        None, "worker processes; null = one per CUDA device, else one per core, at most clients_per_round", ge=1
    )
    weighting: Literal["examples", "tokens", "uniform"] = described("examples", "what an update weighs by")
    max_client_examples: int | None = described(
        None, "a client weighs at most as with so many examples; null = what it has", "examples", ge=1
    )
    max_update_norm: float | None = described(
        1000.0, "an update (local - global) with a larger L2 norm is refused; null = none is", gt=0
    )
    save_every: int = described(5, "rounds between global checkpoints; the last is always kept", "rounds", ge=1)
    save_client_adapters: bool = described(True, "keep each client's adapter of each round")

    def shared(self) -> Shared:
        """The LoRA factors that are sent and averaged; the others stay with their clients, each with its own model."""
        return _SHARED.get(self.lora_aggregation, "both")

    def upload_spec(self) -> CodecSpec:
        """How updates travel, as workers are told."""
        return _spec(self.upload_codec, self.upload_codec_options)

    def download_spec(self) -> CodecSpec:
        """How the global adapter travels, likewise."""
        return _spec(self.download_codec, self.download_codec_options)

    def method_spec(self) -> LocalMethodSpec:
        """The local method, as workers are told."""
        given: dict[str, Any] = {name: float(value) for name, value in self.local_method_options.items()}
        return LocalMethodSpec(self.local_method, **{"mu": None, "alpha": None} | given)

    def conflict(self) -> str | None:
        return (
            super().conflict()
            or self._asynchronous_conflict()
            or self._distribution_conflict()
            or self._selection_conflict()
            or self._aggregation_conflict()
            or self._local_method_conflict()
            or self._server_optimizer_conflict()
            or _codec_conflict("upload_codec", self.upload_codec, self.upload_codec_options)
            or _codec_conflict("download_codec", self.download_codec, self.download_codec_options)
            or config_lora.conflict(dict(self), self.upload_spec())
        )

    def _aggregation_conflict(self) -> str | None:
        method, options = self.aggregation_method, self.aggregation_options
        # What a user's own rule takes and needs is found out where it is imported, at the start of the run.
        if (method == "fedavg" and not options) or own_code.is_reference(method):
            return None
        from fedmq.algorithms import aggregators  # and numpy, which most commands have no use for

        factory = aggregators.BY_NAME[method]
        if conflict := options_conflict("federated.aggregation_options", method, options, factory):
            return conflict
        rule = factory(**options)
        return self.too_few(rule.fewest, f"{rule.label()} needs", f" ({aggregators.NEEDS.get(method)})")

    def too_few(self, fewest: int, needs: str, reason: str = "") -> str | None:
        """Why a round of this config may close with fewer updates than its aggregation needs; None if it cannot."""
        if (closes_with := self.quorum()) >= fewest:
            return None
        what = "clients_per_round" if self.min_clients is None and self.mode == "sync" else "min_clients"
        return (
            f"federated.aggregation_method: {needs} at least {fewest} updates{reason}, and a round may close with "
            f"{closes_with} ({what}): raise {what} first, or change aggregation_options"
        )

    def _asynchronous_conflict(self) -> str | None:
        if self.mode != "async":
            return None
        whole = {
            "aggregation_method": ("fedavg", "norm_clip"),
            "lora_aggregation": ("fedit", "fedsa", "local"),
            "local_method": ("fedavg", "fedprox"),
            "selection": tuple(name for name in SELECTIONS if name != "weighted"),
        }
        for name, known in whole.items():
            value = getattr(self, name)
            if value not in known and not own_code.is_reference(value):
                return (
                    f'federated.{name}: "{value}" needs a cohort that trained from one version, and mode "async" has '
                    f"none; choose {', '.join(known)}, or another mode"
                )
        return None

    def _distribution_conflict(self) -> str | None:
        if not self.distribution_options:
            return None
        from fedmq.algorithms import partition

        factory = partition.BY_NAME[self.data_distribution]
        return options_conflict(
            "federated.distribution_options", self.data_distribution, self.distribution_options, factory
        )

    def _selection_conflict(self) -> str | None:
        if self.selection == "weighted" and self.weighting == "uniform":
            return (
                'federated.selection: "weighted" draws clients by what they weigh, which federated.weighting "uniform" '
                'makes the same for all; set weighting to "examples" or "tokens" (who is drawn by size is not weighted '
                'by it again), or selection to "uniform"'
            )
        if not self.selection_options or own_code.is_reference(self.selection):
            return None
        from fedmq.algorithms import sampling

        where = "federated.selection_options"
        factory = sampling.BY_NAME[self.selection]
        if conflict := options_conflict(where, self.selection, self.selection_options, factory):
            return conflict
        if self.selection == "power_of_choice" and isinstance(d := self.selection_options.get("d"), (int, float)):
            drawn = min(self.num_clients, math.ceil(self.clients_per_round * self.over_selection))
            if not drawn <= d <= self.num_clients:
                return (
                    f"{where}: d = {d:g} candidates, of which {drawn} are drawn in each round; it should be {drawn} to "
                    f"num_clients {self.num_clients}"
                )
        return None

    def _local_method_conflict(self) -> str | None:
        if self.local_method == "fedavg" and not self.local_method_options:
            return None
        from fedmq.algorithms import local_aggregate, local_methods  # and numpy, likewise

        method, options = self.local_method, self.local_method_options
        if method in local_aggregate.BY_NAME:
            for name, needed in (("aggregation_method", "fedavg"), ("lora_aggregation", "fedit")):
                if (value := getattr(self, name)) != needed:
                    return (
                        f'federated.local_method: "{method}" averages by itself, {name} "{value}" would not be used; '
                        f'set {name} "{needed}", or local_method "fedavg" or "fedprox"'
                    )
        return self._two_sums_conflict() or options_conflict(
            "federated.local_method_options", method, options, local_methods.BY_NAME[method]
        )

    def _two_sums_conflict(self) -> str | None:
        """What clients add up for themselves must be what the coordinator adds up of them."""
        reasons: dict[str, tuple[Any, str]] = {}
        if self.local_method in ("feddyn", "scaffold"):
            lossy = "what an update loses on the way, client and coordinator would add up differently"
            reasons["upload_codec"] = ("fp32", lossy)
        if self.local_method == "scaffold":
            reasons["download_codec"] = ("fp32", "c goes down with the adapter, in whole files")
        if self.local_method == "feddyn":
            exact = "its own step at the coordinator is exact for the mean alone"
            reasons |= {"server_optimizer": ("none", exact), "server_optimizer_options": ({}, exact)}
            reasons["weighting"] = ("uniform", "its terms add up to 0 over clients that count the same")
        for name, (needed, reason) in reasons.items():
            if (value := getattr(self, name)) != needed:
                return (
                    f'federated.local_method: "{self.local_method}" does not go with {name} {json.dumps(value)}: '
                    f"{reason}; set {name} {json.dumps(needed)} first"
                )
        return None

    def _server_optimizer_conflict(self) -> str | None:
        if not self.server_optimizer_options:
            return None
        from fedmq.algorithms import server_opt

        factory = server_opt.BY_NAME[self.server_optimizer]
        return options_conflict(
            "federated.server_optimizer_options", self.server_optimizer, self.server_optimizer_options, factory
        )


def _spec(name: str, options: Options) -> CodecSpec:
    given: dict[str, Any] = {field.name: options.get(field.name) for field in fields(CodecSpec) if field.name != "name"}
    if given["fraction"] is not None:
        given["fraction"] = float(given["fraction"])
    return CodecSpec(name, **given)


def _codec_conflict(field: str, name: str, options: Options) -> str | None:
    if not options:
        return None
    from fedmq.codec import update  # and numpy, likewise

    return options_conflict(f"federated.{field}_options", name, options, update.BY_NAME[name])
