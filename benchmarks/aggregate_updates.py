"""Updates as clients of GPT-2 small send them (c_attn and c_proj, r = 8: 811,008 numbers), from their numbers alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: module -> width in, width out; with `layers` 1 a twelfth of it
GPT2 = {"attn.c_attn": (768, 2304), "attn.c_proj": (768, 768), "mlp.c_proj": (3072, 768)}
RANK = 8


def shapes(layers: int) -> dict[str, tuple[int, int]]:
    """Tensor -> shape, as peft names them."""
    found = {}
    for layer in range(layers):
        for module, (d_in, d_out) in GPT2.items():
            prefix = f"base_model.model.transformer.h.{layer}.{module}"
            found |= {f"{prefix}.lora_A.weight": (RANK, d_in), f"{prefix}.lora_B.weight": (d_out, RANK)}
    return found


def adapter(client: int, layers: int) -> dict[str, np.ndarray]:
    """A client's adapter, float32; client -1 is the global one."""
    draw = np.random.default_rng(client + 1)
    return {name: draw.standard_normal(size, dtype=np.float32) * 0.01 for name, size in shapes(layers).items()}


def examples(client: int) -> int:
    """10 to 99."""
    return 10 + client * 37 % 90


def adapters(count: int, layers: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Each client's examples and adapter."""
    for client in range(count):
        yield examples(client), adapter(client, layers)
