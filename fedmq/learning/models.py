"""A frozen base model with one LoRA adapter and its tokenizer: loaded once per process, kept across rounds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import PeftModel, get_peft_model, get_peft_model_state_dict

from fedmq.algorithms.lora_core import folded
from fedmq.atomic import fsync, replacing_folder
from fedmq.errors import LocalProtocolError, ModelError
from fedmq.learning import bases
from fedmq.learning.adapter_folder import read_adapter, write_adapter
from fedmq.learning.bases import load_base
from fedmq.learning.cores import name_of, put_cores
from fedmq.learning.engine import choose_engine
from fedmq.learning.fast.card import passes_of
from fedmq.learning.fast.model import PackedModel
from fedmq.learning.fast.trunk import Recomputed, Trunk, Trunks
from fedmq.learning.merged import MergedBase
from fedmq.learning.targets import lora_config
from fedmq.learning.tokenizer import BUNDLED, Tokenizer, find_folder, library_warnings_to_log, load_tokenizer
from fedmq.recipe import LoRASpec
from fedmq.tensors import NamedTensors, require_same_shapes

__all__ = ["BUNDLED", "LanguageModel", "Tokenizer", "load_for_inference", "load_tokenizer"]


class LanguageModel:
    """One frozen base, one LoRA adapter, one tokenizer.

    Attributes:
      model: the peft model, on `device`, in evaluation mode unless it is training.
      tokenizer: of the base.
      name: that adapter_config.json gives to the base.
      lora: as given to `load`.
      device: "cpu", "cuda:N" or "mps".
      max_length: of the texts it trains on, in tokens.
      max_positions: the longest text it can read, in tokens; None where its positions have no limit.
      base_digest: SHA-256 in hex over the frozen base; workers of one run must agree on it.
      num_trainable, num_parameters: counts of the adapter's and of all parameters.
      packed: the base as engine "fast" computes it; None under engine "hf".
      engine_note: which engine, in which precision or why not the other, as a line for the log.

    Example:
      >>> lm = LanguageModel.load("fedmq-tiny", lora, max_length=128, seed=42, device="cpu")  # doctest: +SKIP
      >>> lm.set_adapter(lm.initial_adapter())  # doctest: +SKIP
    """

    def __init__(
        self,
        name: str,
        base: transformers.PreTrainedModel,
        tokenizer: Tokenizer,
        lora: LoRASpec,
        *,
        max_length: int,
        seed: int,
        device: str,
        engine: str,
        precision: str,
    ) -> None:
        self.name, self.lora, self.tokenizer = name, lora, tokenizer
        self.device, self.max_length = device, max_length
        self.max_positions: int | None = getattr(base.config, "max_position_embeddings", None)
        if self.max_positions is not None and max_length > self.max_positions:
            raise ModelError(
                f"model.max_length is {max_length}, but base model {name!r} has {self.max_positions} "
                "positions: lower max_length"
            )
        if tokenizer.vocab_size > base.config.vocab_size:
            raise ModelError(
                f"base model {name!r}: its tokenizer has {tokenizer.vocab_size} tokens, its embedding "
                f"{base.config.vocab_size}"
            )
        self.base_digest = bases.digest(base)
        config, targets = lora_config(name, base, lora)
        # peft draws A when it adds the layers: on the CPU from `seed`, so that every device starts with the same.
        with torch.random.fork_rng(devices=[]), library_warnings_to_log():
            torch.manual_seed(seed)
            self.model: PeftModel = get_peft_model(base, config)
        if lora.core:
            put_cores(self.model)
        self._initial = self.get_adapter()
        self.model.to(device).eval()
        self.num_trainable, self.num_parameters = self.model.get_nb_trainable_parameters()
        dtype, self.engine_note = choose_engine(
            engine, precision, name=name, base=base, lora=lora, targets=targets, device=device
        )
        self.packed = None if dtype is None else PackedModel(base, lora, self._initial, dtype, self.base_digest)
        self.passes = None if self.packed is None else passes_of(self.packed)
        self._trunks: Trunks | None = None
        self._merged = MergedBase(self.model, lora.lora_alpha / lora.r, self.packed)
        if dtype is torch.bfloat16 and device == "cpu":
            bases.release_pages(base)

    @classmethod
    def load(
        cls,
        name: str,
        lora: LoRASpec,
        *,
        max_length: int,
        seed: int,
        device: str,
        cache_dir: str | None = None,
        known_as: str | None = None,
        engine: str = "auto",
        precision: str = "auto",
    ) -> LanguageModel:
        """Load the base from a folder or the hub and put a new adapter on it.

        Args:
          name: "fedmq-tiny", a local folder, or a hub id; its weights become float32.
          lora: the adapter.
          max_length: in tokens, at most the base's positions.
          seed: decides the initial adapter, alone.
          device: as returned by `resolve_device`.
          cache_dir: the hub's cache; None is the library's default.
          known_as: what adapter_config.json calls the base, where `name` only says where it lies on this host.
          engine: "auto", "fast" or "hf".
          precision: of the frozen weights, "auto", "fp32", "bf16" or "fp16".

        Raises:
          ModelError: one line that says what is wrong with the name, the folder, the length, the target modules or
            the layers.
          ConfigError: engine "fast" was asked for, and cannot train this model.
        """
        tokenizer = load_tokenizer(name, cache_dir)
        base = load_base(name, find_folder(name, cache_dir))
        return cls(
            known_as or name,
            base,
            tokenizer,
            lora,
            max_length=max_length,
            seed=seed,
            device=device,
            engine=engine,
            precision=precision,
        )

    @property
    def cuda_devices(self) -> list[str]:
        """The CUDA device in a list, or the empty list: what torch.random.fork_rng wants."""
        return [self.device] if self.device.startswith("cuda") else []

    def keep_trunks(self, folder: Path, on_text: Callable[[int, int], None] = lambda done, total: None) -> None:
        """From now on, keep in `folder` what the layers below all adapters make of stored splits.

        `on_text` is called with (texts done, texts in all) while that is computed; what it raises ends it.
        """
        self._trunks = None if self.packed is None else Trunks(folder, self.packed, on_text)

    def trunk(self, texts: Sequence[np.ndarray]) -> Trunk | Recomputed | None:
        """What is kept of these texts; see `keep_trunks`."""
        return None if self._trunks is None else self._trunks.of(texts)

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """What the adapter's names stand for in the model."""
        by_place = {weight.data_ptr(): weight for weight in self.model.parameters()}
        return {name: by_place[value.data_ptr()] for name, value in self._parameters()}

    def get_adapter(self) -> dict[str, np.ndarray]:
        """A copy of the adapter: float32, named as in adapter_model.safetensors, sorted."""
        return {name: value.float().cpu().numpy().copy() for name, value in self._parameters()}

    def set_adapter(self, tensors: NamedTensors) -> None:
        """Overwrite the adapter, exactly.

        Raises:
          LocalProtocolError: names the first tensor that is missing, foreign, or of another shape or dtype.
        """
        require_same_shapes(tensors, self._initial)
        for name, value in tensors.items():
            if value.dtype != np.float32:
                raise LocalProtocolError(f"tensor {name}: dtype {value.dtype}, expected float32")
        with torch.no_grad():
            for name, parameter in self._parameters():
                parameter.copy_(torch.tensor(tensors[name]))

    def grow(self, links: Sequence[str], read: Callable[[str], NamedTensors]) -> None:
        """Make the base that of these links; see `MergedBase.grow`."""
        self._merged.grow(links, read)

    def initial_adapter(self) -> dict[str, np.ndarray]:
        """The adapter of version 0: A kaiming-uniform, B zero, R identity; the base's shapes and `seed` decide it."""
        return {name: value.copy() for name, value in self._initial.items()}

    def adapter_config(self) -> dict[str, Any]:
        """The content of adapter_config.json: JSON types only, keys and sets sorted, the base named as given."""
        return self._config_of(self._initial)

    def _config_of(self, adapter: NamedTensors) -> dict[str, Any]:
        content = self.model.peft_config["default"].to_dict()
        ranks = {name.removesuffix(".lora_A.weight"): len(a) for name, a in adapter.items() if ".lora_A." in name}
        others = {path.removeprefix("base_model.model."): rank for path, rank in ranks.items() if rank != self.lora.r}
        scale = self.lora.lora_alpha / self.lora.r
        content |= {"rank_pattern": others, "alpha_pattern": {path: scale * rank for path, rank in others.items()}}
        content |= {"base_model_name_or_path": self.name, "inference_mode": True}
        return {key: _plain(content[key]) for key in sorted(content)}

    def save_adapter(self, folder: Path, adapter: NamedTensors | None = None) -> None:
        """Write a folder that PeftModel.from_pretrained loads on the base as it came: what was merged is in it.

        Args:
          folder: replaced if it is there.
          adapter: in place of the model's own.
        """
        whole = self._merged.whole(folded(self.get_adapter() if adapter is None else adapter))
        write_adapter(folder, whole, self._config_of(whole))

    def merged(self) -> transformers.PreTrainedModel:
        """A plain transformers model, on the CPU, with the adapter added into its weights."""
        with library_warnings_to_log():
            return copy.deepcopy(self.model).cpu().merge_and_unload()

    def save_merged(self, folder: Path) -> None:
        """Write the merged model and the tokenizer as a plain transformers folder, replaced if it is there."""
        merged = self.merged()
        with replacing_folder(folder) as temporary, library_warnings_to_log():
            merged.save_pretrained(temporary)
            self.tokenizer.fast.save_pretrained(temporary)
            for path in temporary.iterdir():
                fsync(path)

    def _parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        # The state dict's tensors share memory with the parameters. Embeddings are never part of
        # our adapters; "auto" would ask the hub for the base's configuration.
        state = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        return iter(sorted((name_of(name), value) for name, value in state.items()))


def load_for_inference(
    name: str | None,
    adapter_folder: Path,
    *,
    device: str,
    max_length: int,
    cache_dir: str | None = None,
    engine: str = "auto",
    precision: str = "auto",
) -> LanguageModel:
    """A base with a trained adapter from disk.

    Args:
      name: the base; None takes the one that the adapter names.
      adapter_folder: holds adapter_model.safetensors and adapter_config.json.
      device: as returned by `resolve_device`.
      max_length: in tokens.
      cache_dir: the hub's cache; None is the library's default.
      engine, precision: as of `LanguageModel.load`.

    Raises:
      StorageError: no readable adapter in the folder.
      ModelError: the base is not found, or the adapter is of another base.
    """
    tensors, config = read_adapter(adapter_folder)
    name, layers = name or config["base_model_name_or_path"], config["layers_to_transform"]
    lora = LoRASpec(
        r=config["r"],
        lora_alpha=config["lora_alpha"],
        target_modules=tuple(config["target_modules"]),
        lora_dropout=config["lora_dropout"],
        layers_to_transform=None if layers is None else tuple(layers),
        bias=config["bias"],
        task_type=config["task_type"],
        core=False,
    )
    lm = LanguageModel.load(
        name,
        lora,
        max_length=max_length,
        seed=0,
        device=device,
        cache_dir=cache_dir,
        engine=engine,
        precision=precision,
    )
    try:
        lm.set_adapter(tensors)
    except LocalProtocolError as error:
        raise ModelError(f"the adapter in {adapter_folder} does not fit base model {name!r}: {error}") from error
    return lm


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value.value) if hasattr(value, "value") else value
