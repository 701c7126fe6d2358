"""What an engine really runs: counts from TensorRT's layer JSON (detailed verbosity), whose spelling differs by version."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from edge.errors import EngineError

# "Row major Int8 format", "Thirty-two wide channel vectorized row major Int8 format", "Int8", ...
_TYPES = (
    ("int8", re.compile(r"\bint8\b", re.I)),
    ("fp16", re.compile(r"\b(fp16|half)\b", re.I)),
    ("bf16", re.compile(r"\b(bf16|bfloat16)\b", re.I)),
    ("fp32", re.compile(r"\b(fp32|float)\b", re.I)),
)


@dataclass(frozen=True)
class LayerSummary:
    """How many layers compute in each type, by the narrowest of their inputs; `reformats` only move or convert data;
    `fused` of the layers are opaque Myelin blocks that hold several operators; `other` has no float or int8 input."""

    layers: int
    int8: int
    fp16: int
    bf16: int
    fp32: int
    other: int
    reformats: int
    fused: int

    def __str__(self) -> str:
        counted = ", ".join(
            f"{n} {name}"
            for name, n in (("INT8", self.int8), ("FP16", self.fp16), ("BF16", self.bf16), ("FP32", self.fp32))
            if n
        )
        return f"{self.layers} layers ({counted or 'of no known type'}), {self.reformats} reformats, {self.fused} fused blocks"


def summarise(layers: str) -> LayerSummary:
    """The inspector's JSON -> counts. EngineError when it is not that."""
    try:
        found = json.loads(layers)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"engine inspector: found no layer JSON ({error}); this TensorRT prints another form"
        ) from error
    counts = dict.fromkeys(("int8", "fp16", "bf16", "fp32", "other"), 0)
    reformats = fused = 0
    for layer in found:
        record = layer if isinstance(layer, dict) else {"Name": str(layer)}  # names only, without detailed verbosity
        kind, name = str(record.get("LayerType", "")), str(record.get("Name", ""))
        if "reformat" in kind.lower() or "Reformatting CopyNode" in name:
            reformats += 1
            continue
        fused += "myelin" in kind.lower() or "ForeignNode" in name
        counts[_type_of(record)] += 1
    return LayerSummary(layers=sum(counts.values()), reformats=reformats, fused=fused, **counts)


def _type_of(record: dict[str, Any]) -> str:
    formats = " ; ".join(
        str(tensor.get("Format/Datatype", tensor.get("Datatype", "")))
        for tensor in record.get("Inputs", [])
        if isinstance(tensor, dict)
    )
    return next((name for name, pattern in _TYPES if pattern.search(formats)), "other")
