"""In which number format the frozen weights are computed with."""

from __future__ import annotations

import time

import torch

from fedmq.errors import ConfigError
from fedmq.recipe import TrainingRecipe

#: bfloat16 is taken where it is faster by this factor: its digits are fewer, and a close race could end otherwise
#: in the next process, and with it the bits of the result.
_WORTH = 1.25
#: Rows of the products: on a card so many that they take longer than to ask for them.
_PROBE_ROWS, _PROBE_ROWS_ON_CARD = 256, 1 << 14


def require_precision(recipe: TrainingRecipe, device: str) -> str:
    """The precision that a recipe asks for on a device: "auto", "fp32", "bf16" or "fp16".

    The field `fp16` asks for mixed precision: bfloat16 where the CUDA device has it, for its range needs no
    loss scaling.

    Raises:
      ConfigError: the device has not got it.
    """
    asked = recipe.precision
    if recipe.fp16 and asked not in ("auto", "fp16"):
        raise ConfigError(f"training.fp16 is true and training.precision is {asked!r}: give one of them")
    if (recipe.fp16 or asked == "fp16") and not device.startswith("cuda"):
        raise ConfigError(
            f'training.fp16 / training.precision "fp16" needs a CUDA device, this worker trains on '
            f'{device!r}: set training.precision to "bf16" or "fp32"'
        )
    if asked == "bf16" and device.startswith("cuda") and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(f'training.precision "bf16" is not known to {device!r}: set it to "fp16" or "fp32"')
    if recipe.fp16 and asked == "auto":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return asked


def faster_dtype(device: str, width: int, seconds: float = 0.05) -> torch.dtype:
    """float32 or bfloat16, whichever multiplies matrices faster here.

    A processor without bfloat16 arithmetic emulates it, many times slower. Both are timed in turns on one
    thread, and the best time of each counts. On a CPU that is processor time, so that other processes do not decide.

    Args:
      device: "cpu" or "cuda:N".
      width: of the matrices, that of the model's layers.
      seconds: the probe's length.
    """
    on_cpu = device == "cpu"
    shapes = (_PROBE_ROWS if on_cpu else _PROBE_ROWS_ON_CARD, width), (width, width)
    pairs = {
        dtype: [torch.ones(shape, dtype=dtype, device=device) for shape in shapes]
        for dtype in (torch.float32, torch.bfloat16)
    }
    clock = time.thread_time if on_cpu else time.perf_counter
    best = dict.fromkeys(pairs, float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        started, rounds = clock(), 0
        # The first products of each kind set the kernel up: they do not count.
        while rounds < 3 or clock() - started < seconds:
            for dtype, (x, weight) in pairs.items():
                before = clock()
                x @ weight
                if not on_cpu:
                    torch.cuda.synchronize(device)
                if rounds:
                    best[dtype] = min(best[dtype], clock() - before)
            rounds += 1
    finally:
        torch.set_num_threads(threads)
    return torch.bfloat16 if best[torch.bfloat16] * _WORTH < best[torch.float32] else torch.float32
