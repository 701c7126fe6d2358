"""What the products of training are computed in: float32, or bfloat16 under autocast where this machine is faster with it.

What a processor says of itself can mislead: AVX512 without bfloat16 units computes it in software, some 50 times slower than
float32. So one product of each is timed, once a process. The choice depends on the machine, not on the recipe: it is no key of a
stamp, and stands in a file beside what was trained.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

from export.atomic import appearing

log = logging.getLogger("hygroma.train")

CPU = torch.device("cpu")
FLOAT32, BFLOAT16 = "float32", "bfloat16"
GAIN = 1.2  # bfloat16 must be that much faster: units for it give 1.5 to 1.8 (measured), so that noise never decides
HOPELESS = 3.0  # times float32's: the first product in bfloat16 alone decides then, as more would take seconds
REPEATS = 3  # of which the fastest counts
CPU_SHAPE = (512, 384, 1536)  # rows, inputs, outputs: a ViT-S MLP on two images; 5 ms in float32 on one core
GPU_SHAPE = (8192, 768, 3072)  # a ViT-B MLP on forty: less would time the launch
SUFFIX = ".precision.json"


@dataclass(frozen=True)
class Precision:
    """The choice for one kind of device, and what it rests on: milliseconds of one product, forward and backward."""

    name: str  # FLOAT32 or BFLOAT16
    float32_ms: float
    bfloat16_ms: float

    def __str__(self) -> str:
        return f"{self.name} (a product takes {self.float32_ms:.1f} ms in float32, {self.bfloat16_ms:.1f} ms in bfloat16)"


def precision_on(device: torch.device) -> Precision:
    """The faster of the two on `device` with torch's present number of threads. Timed and logged once a process."""
    return _chosen(device.type, torch.get_num_threads())


@cache
def _chosen(device: str, threads: int) -> Precision:
    full = min(product_ms(device, False) for _ in range(1 + REPEATS))
    half = product_ms(device, True)
    if half < HOPELESS * full:
        half = min(half, *(product_ms(device, True) for _ in range(REPEATS)))
    chosen = Precision(BFLOAT16 if half * GAIN < full else FLOAT32, full, half)
    log.info("training on %s, %d threads: %s", device, threads, chosen)
    return chosen


@torch.enable_grad()  # heads are asked without gradients
def product_ms(device: str, bfloat16: bool) -> float:
    """Milliseconds of one linear layer on `device`, forward and backward."""
    rows, inputs, outputs = GPU_SHAPE if device == "cuda" else CPU_SHAPE
    weight = torch.ones(outputs, inputs, device=device, requires_grad=True)  # no draw from torch's random numbers
    x = torch.ones(rows, inputs, device=device, requires_grad=True)
    _finish(device)
    started = time.perf_counter()
    with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
        y = F.linear(x, weight)
    y.backward(torch.ones_like(y))
    _finish(device)
    return (time.perf_counter() - started) * 1e3


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def autocast(device: torch.device, allowed: bool = True) -> torch.autocast:
    """The context in which a training step's products are computed. allowed: False keeps them in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=allowed and precision_on(device).name == BFLOAT16)


def record(trained: Path, device: torch.device) -> None:
    """Add the choice to the file beside `trained` (a checkpoint or a folder): a run that goes on elsewhere may take another."""
    path, name = trained.with_name(trained.stem + SUFFIX), precision_on(device).name
    known = recorded(trained)
    if name not in known:
        with appearing(path) as partial:
            partial.write_text(json.dumps([*known, name]) + "\n")


def recorded(trained: Path) -> list[str]:
    """The precisions in which `trained` was made; none where an older version made it."""
    path = trained.with_name(trained.stem + SUFFIX)
    try:
        return [str(name) for name in json.loads(path.read_text())]
    except (FileNotFoundError, ValueError):
        return []
