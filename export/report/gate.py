"""The gate: what a conversion may lose against PyTorch FP32 on identical held-out images before a bundle is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from edge.bundle.manifest import GateResult
from edge.errors import InputError
from export.model.heads import TOGETHER
from export.report import metrics
from export.report.records import GatedLosses, Verdict


@dataclass(frozen=True)
class GateLimits:
    """positives_lost: labelled positives that PyTorch calls positive and the conversion does not. flips: share of
    images whose decision changes. auc_drop: reference's area minus the conversion's. The values: docs/design.md#gate."""

    positives_lost: int = 0
    flips: float = 0.007
    auc_drop: float = 0.002


DEFAULT_LIMITS = GateLimits()


def gate(
    labels: np.ndarray,
    reference: np.ndarray,
    converted: np.ndarray,
    thresholds: np.ndarray | float,
    ids: Sequence[str],
    limits: GateLimits = DEFAULT_LIMITS,
) -> GateResult:
    """Hold a conversion's probabilities against the reference's.

    labels {0,1} [n]; reference, converted: hygroma probabilities [n]; thresholds: operating point, one or per image
    [n]; ids: names of the images, for the message. Without a positive or a negative the gate fails: nothing would have
    been shown. InputError when lengths differ, or for n = 0.
    """
    n = len(labels)
    if n == 0 or len(reference) != n or len(converted) != n or len(ids) != n:
        raise InputError(
            f"gate: found {n} labels, {len(reference)} and {len(converted)} probabilities, {len(ids)} ids; expected "
            "equal, > 0"
        )
    for name, values in (("reference", reference), ("converted", converted)):
        if odd := [i for i, p in zip(ids, values, strict=True) if not np.isfinite(p)]:
            raise InputError(
                f"gate: {len(odd)} of {n} {name} probabilities are not finite ({', '.join(odd[:3])}); do not use this graph or "
                "engine: convert or build it again"
            )
    positive = np.asarray(labels).astype(bool)
    before, after = np.asarray(reference) >= thresholds, np.asarray(converted) >= thresholds
    flipped = before != after
    lost = int((positive & before & ~after).sum())
    dp = np.abs(np.asarray(reference, np.float64) - converted)
    reasons = []
    drop = 0.0
    if positive.all() or not positive.any():
        reasons.append(f"{int(positive.sum())} positives among {n} images: both classes are needed to show anything")
    else:
        drop = metrics.auc(positive, np.asarray(reference)).value - metrics.auc(positive, np.asarray(converted)).value
    if lost > limits.positives_lost:
        reasons.append(f"{lost} positives lost at the operating point; at most {limits.positives_lost} allowed")
    if flipped.mean() > limits.flips:
        reasons.append(
            f"{int(flipped.sum())} of {n} decisions flipped ({flipped.mean():.2%}); at most {limits.flips:.1%} allowed"
        )
    if drop > limits.auc_drop:
        reasons.append(f"ROC-AUC fell by {drop:.4f}; at most {limits.auc_drop} allowed")
    return GateResult(
        passed=not reasons,
        accepted_failing=False,
        n=n,
        positives=int(positive.sum()),
        positives_lost=lost,
        flips=int(flipped.sum()),
        auc_drop=float(drop),
        max_dp=float(dp.max()),
        p99_dp=float(np.percentile(dp, 99)),
        reasons=tuple(reasons),
        flipped=tuple(str(name) for name, f in zip(ids, flipped, strict=True) if f),
    )


def failing(conversion: Mapping[str, GatedLosses], gated: str) -> dict[str, Verdict]:
    """Part -> its verdict, of the parts in which a conversion's report fails; all images together come first in it. With
    `gated` TOGETHER they alone count."""
    counted = list(conversion.items())[: 1 if gated == TOGETHER else None]
    return {part: losses["gate"] for part, losses in counted if not losses["gate"]["passed"]}


def verdict(result: GateResult) -> Verdict:
    """The result as JSON values."""
    found: Verdict = asdict(result)  # type: ignore[assignment]
    return found


def also_failing(result: GateResult, reasons: Sequence[str]) -> GateResult:
    """`result` of a conversion that a person accepted although it fails elsewhere too, for `reasons`; as it is without any."""
    if not reasons:
        return result
    return replace(result, passed=False, accepted_failing=True, reasons=(*result.reasons, *reasons))
