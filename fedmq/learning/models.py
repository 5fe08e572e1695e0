"""A frozen base model with one LoRA adapter and its tokenizer: loaded once per process, kept across rounds."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers.pytorch_utils import Conv1D

from fedmq.atomic import fsync, replacing_folder
from fedmq.errors import ConfigError, LocalProtocolError, ModelError
from fedmq.learning.adapter_folder import read_adapter, write_adapter
from fedmq.learning.tokenizer import BUNDLED, Tokenizer, find_folder, library_warnings_to_log, load_tokenizer, one_line
from fedmq.recipe import LoRASpec
from fedmq.tensors import NamedTensors, require_same_shapes

__all__ = ["BUNDLED", "LanguageModel", "Tokenizer", "load_for_inference", "load_tokenizer", "resolve_device"]


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
        self.base_digest = _digest(base)
        config = _lora_config(name, base, lora)
        # peft draws A when it adds the layers: on the CPU from `seed`, so that every device starts with the same.
        with torch.random.fork_rng(devices=[]), library_warnings_to_log():
            torch.manual_seed(seed)
            self.model: PeftModel = get_peft_model(base, config)
        self._initial = self.get_adapter()
        self.model.to(device).eval()
        self.num_trainable, self.num_parameters = self.model.get_nb_trainable_parameters()

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

        Raises:
          ModelError: one line that says what is wrong with the name, the folder, the length or the target modules.
        """
        tokenizer = load_tokenizer(name, cache_dir)
        base = _load_base(name, find_folder(name, cache_dir))
        return cls(known_as or name, base, tokenizer, lora, max_length=max_length, seed=seed, device=device)

    @property
    def cuda_devices(self) -> list[str]:
        """The CUDA device in a list, or the empty list: what torch.random.fork_rng wants."""
        return [self.device] if self.device.startswith("cuda") else []

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

    def initial_adapter(self) -> dict[str, np.ndarray]:
        """The adapter of version 0: A kaiming-uniform, B zero; it depends on the base's shapes and `seed` alone."""
        return {name: value.copy() for name, value in self._initial.items()}

    def adapter_config(self) -> dict[str, Any]:
        """The content of adapter_config.json: JSON types only, keys and sets sorted, the base named as given."""
        content = self.model.peft_config["default"].to_dict()
        content |= {"base_model_name_or_path": self.name, "inference_mode": True}
        return {key: _plain(content[key]) for key in sorted(content)}

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter as a folder that PeftModel.from_pretrained loads."""
        write_adapter(folder, self.get_adapter(), self.adapter_config())

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
        return iter(sorted(state.items()))


def load_for_inference(
    name: str | None, adapter_folder: Path, *, device: str, max_length: int, cache_dir: str | None = None
) -> LanguageModel:
    """A base with a trained adapter from disk.

    Args:
      name: the base; None takes the one that the adapter names.
      adapter_folder: holds adapter_model.safetensors and adapter_config.json.
      device: as returned by `resolve_device`.
      max_length: in tokens.
      cache_dir: the hub's cache; None is the library's default.

    Raises:
      StorageError: no readable adapter in the folder.
      ModelError: the base is not found, or the adapter is of another base.
    """
    tensors, config = read_adapter(adapter_folder)
    name = name or config["base_model_name_or_path"]
    lora = LoRASpec(
        r=config["r"],
        lora_alpha=config["lora_alpha"],
        target_modules=tuple(config["target_modules"]),
        lora_dropout=config["lora_dropout"],
        bias=config["bias"],
        task_type=config["task_type"],
    )
    lm = LanguageModel.load(name, lora, max_length=max_length, seed=0, device=device, cache_dir=cache_dir)
    try:
        lm.set_adapter(tensors)
    except LocalProtocolError as error:
        raise ModelError(f"the adapter in {adapter_folder} does not fit base model {name!r}: {error}") from error
    return lm


def resolve_device(name: str) -> tuple[str, str | None]:
    """The device to use for the setting `device`, and what to tell the user if it is another than asked.

    Raises:
      ConfigError: a device that was named exactly does not exist here.

    Example:
      >>> resolve_device("cpu")
      ('cpu', None)
    """
    kind, _, index = name.partition(":")
    if name == "cuda" and not torch.cuda.is_available():
        return "cpu", "no CUDA device: training on the CPU"
    if kind == "cuda" and (index or "0").isdigit():
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            raise ConfigError(f"device {name!r} does not exist: this machine has {count} CUDA devices")
        return f"cuda:{int(index or 0)}", None
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' does not exist on this machine")
    if name not in ("cpu", "mps"):
        raise ConfigError(f'device {name!r} is unknown: expected "cuda", "cuda:N", "cpu" or "mps"')
    return name, None


def _load_base(name: str, folder: Path) -> transformers.PreTrainedModel:
    try:
        with library_warnings_to_log():
            # No pickle: a folder with pytorch_model.bin alone is refused.
            base, info = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:  # the library raises nearly anything on a damaged or foreign file
        raise ModelError(f"base model {name!r} cannot be loaded from {folder}: {one_line(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"base model {name!r}: {len(missing)} of its weights are not in {folder}, first {missing[0]}")
    return base


def _lora_config(name: str, base: transformers.PreTrainedModel, lora: LoRASpec) -> LoraConfig:
    targets = dict(_possible_targets(base))
    matched: list[torch.nn.Module] = []
    for target in lora.target_modules:
        # As peft matches: the whole path, or its end.
        found = [module for path, module in targets.items() if path == target or path.endswith("." + target)]
        matched += found
        if not found:
            known = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in targets))
            raise ModelError(
                f"lora.target_modules: {target!r} matches no layer of base model {name!r}; these would: {known}"
            )
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        target_modules=sorted(lora.target_modules),
        lora_dropout=lora.lora_dropout,
        bias=lora.bias,
        task_type=lora.task_type,
        # GPT-2's Conv1D stores its weight as (in, out), the transpose of nn.Linear's.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in matched),
    )


def _possible_targets(base: transformers.PreTrainedModel) -> Iterator[tuple[str, torch.nn.Module]]:
    embedding = base.get_input_embeddings().weight
    for path, module in base.named_modules():
        # A head tied to the embedding has no weight of its own to adapt.
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module.weight is not embedding:
            yield path, module


def _digest(base: transformers.PreTrainedModel) -> str:
    """SHA-256 over the model type and the names, shapes and bytes of all weights, tied ones once."""
    sha = hashlib.sha256(base.config.model_type.encode())
    seen: set[int] = set()
    for name, value in sorted(base.state_dict().items()):
        if value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            sha.update(repr((name, tuple(value.shape))).encode())
            sha.update(value.contiguous().numpy())
    return sha.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value.value) if hasattr(value, "value") else value
