"""A device that is not this one, without a GPU: tensors sent to it compute as on the CPU, and meeting one that was forgotten
on the CPU is an error, as on a GPU. It goes under the name of PyTorch's `meta`, the one device that every build has. Autocast
there is asked for and does nothing, so that weights can be compared with the CPU's in float32.

    with far_device() as device:
        model.to(device)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch
from warnings import catch_warnings, filterwarnings

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

FAR = torch.device("meta")


class FarTensor(torch.Tensor):
    """`here` holds its values, on the CPU."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> FarTensor:
        out = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, here.size(), here.stride(), here.storage_offset(), dtype=here.dtype, device=FAR
        )
        out.here = here
        return out

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given, _ = tree_flatten((args, kwargs))
    tensors = [value for value in given if isinstance(value, torch.Tensor)]
    far = [t for t in tensors if isinstance(t, FarTensor)]
    sent = "device" in kwargs and kwargs["device"] is not None
    copies = func is torch.ops.aten.copy_.default  # between devices, as a GPU's does
    if far and not copies and any(not isinstance(t, FarTensor) and t.ndim for t in tensors):
        raise RuntimeError(f"{func}: found tensors on two devices, {FAR} and cpu")
    near = {**kwargs, "device": torch.device("cpu")} if sent else kwargs
    out = func(*tree_map_only(FarTensor, lambda t: t.here, args), **tree_map_only(FarTensor, lambda t: t.here, near))
    if func._schema.is_mutable and tensors:
        return args[0] if func._schema.returns else None
    if torch.device(kwargs["device"]) == FAR if sent else far:
        return tree_map_only(torch.Tensor, FarTensor, out)
    return out


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class _Factory(TorchFunctionMode):
    """torch.tensor(..., device=FAR) would make a tensor without values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and kwargs.get("device") == FAR:
            return func(*args, **{**kwargs, "device": "cpu"}).to(FAR)
        return func(*args, **kwargs)


@contextmanager
def far_device() -> Iterator[torch.device]:
    real = torch.autocast

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device_type == FAR.type else real(device_type, *args, **kwargs)

    with _Factory(), _Dispatch(), patch.object(torch, "autocast", autocast), catch_warnings():
        filterwarnings("ignore", "for .*: copying from a non-meta parameter")  # it does copy: `compute`
        yield FAR
