"""A base whose adapted weights have grown, link after link: W + s B_1 A_1 + s B_2 A_2 + ..."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers.pytorch_utils import Conv1D

from fedmq.errors import LocalProtocolError
from fedmq.learning.fast.model import PackedModel
from fedmq.tensors import NamedTensors

_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"


class MergedBase:
    """What links (`fedmq.algorithms.aggregate.Aggregator.merged`) make of a base.

    The sums are kept in float32 and in the order of the links, so that who takes them one by one and who takes all at
    once have the same bits; weights in bfloat16 are rounded from these. Only modules that a link names are copied.

    Args:
      model: on its device.
      scale: s.
      packed: what engine "fast" computes with, if it does.
    """

    def __init__(self, model: PeftModel, scale: float, packed: PackedModel | None) -> None:
        self._scale, self._packed = scale, packed
        self._layers = {
            path.removeprefix(_PREFIX): layer for path, layer in model.named_modules() if isinstance(layer, LoraLayer)
        }
        #: weights as they were, of modules that have grown
        self._original: dict[str, torch.Tensor] = {}
        self._links: tuple[str, ...] = ()
        self._read: Callable[[str], NamedTensors] = lambda link: {}

    def grow(self, links: Sequence[str], read: Callable[[str], NamedTensors]) -> None:
        """Make the base that of `links`, whatever it is now.

        Args:
          links: their names, the oldest first; names that differ are of other links.
          read: a link by its name, also later, for `whole`; only those are read that are not in the base.

        Raises:
          LocalProtocolError: a link is not of this model.
        """
        if self._links != tuple(links[: len(self._links)]):
            for path, weight in self._original.items():
                self._replace(path, weight)
            self._original, self._links = {}, ()
        self._read = read
        for link in links[len(self._links) :]:
            self._add(read(link))
            self._links = (*self._links, link)

    def whole(self, adapter: NamedTensors) -> dict[str, np.ndarray]:
        """The adapter that on the base as it was gives what `adapter` gives on this one: of larger ranks, float32."""
        parts = [adapter, *map(self._read, self._links)]
        found = dict(adapter)
        for name in adapter:
            if not name.endswith(_A):
                continue
            b_name = name.removesuffix(_A) + _B
            a = np.vstack([part[name] for part in parts if name in part])
            b = np.hstack([part[b_name] for part in parts if name in part])
            d_in, d_out = a.shape[1], len(b)
            if len(a) > min(d_in, d_out):  # then their product and an identity are smaller
                product = (b.astype(np.float64) @ a).astype(np.float32)
                identity = np.eye(min(d_in, d_out), dtype=np.float32)
                a, b = (identity, product) if d_in < d_out else (product, identity)
            found[name], found[b_name] = a, b
        return found

    def _add(self, link: NamedTensors) -> None:
        grown = dict(self._grown(link))
        for path, weight in grown.items():
            self._original.setdefault(path, self._layers[path].get_base_layer().weight.data)
            self._replace(path, weight)

    def _grown(self, link: NamedTensors) -> Iterator[tuple[str, torch.Tensor]]:
        """Of each module that a link names, its path and the weight with the link added."""
        for name in link:
            if not name.endswith(_A):
                continue
            module = name.removesuffix(_A)
            path = module.removeprefix(_PREFIX)
            if path not in self._layers or module + _B not in link:
                raise LocalProtocolError(f"what is merged into the base has {name!r}, this model has no such module")
            layer = self._layers[path].get_base_layer()
            # In float64, and on one thread: how a product is cut up shows in its last digits.
            with _one_thread():
                product = torch.tensor(link[module + _B]).double() @ torch.tensor(link[name]).double()
            product = product.T if isinstance(layer, Conv1D) else product
            weight = layer.weight.data
            if product.shape != weight.shape:
                raise LocalProtocolError(
                    f"what is merged into {path} has the shape {tuple(product.shape)}, expected {tuple(weight.shape)}"
                )
            yield path, (weight.cpu().double() + self._scale * product).float().to(weight.device)

    def _replace(self, path: str, weight: torch.Tensor) -> None:
        layer = self._layers[path].get_base_layer()
        layer.weight.data = weight
        if self._packed is not None:
            self._packed.frozen.replace(path, weight if isinstance(layer, Conv1D) else weight.mT)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
