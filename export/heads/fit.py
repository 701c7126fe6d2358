"""The heads, fitted to the end on what the finished trunk shows them.

The plane head is a logistic regression on the trunk's features, fitted before the trunk is trained and again when it is: the
head that moved with the trunk ranked worse (fold 0, n = 302, ROC-AUC: teacher .891, fitted again .941; student .939 and .960).

The hygroma head that moved with the trunk stays behind in the few epochs a trunk needs: on a fold held out (0, n = 228) its
rank correlation with the measured thickness was .33. Two ridge regressions on what the finished trunk shows of the nuchal
region say more than any head trained by gradient on the same (folds 0 and 1, n = 456: .54 against .39 to .49, at the same
ROC-AUC of .993 for simulated lesions). One learns untouched stills and ranks them: among them the thickness goes with much
that an edit leaves as it was. The other learns every picture, edits above all, and takes over where it sees more than most
untouched ones show. The whole picture's mean, which the head could see besides, helps neither.

Both are fitted on what rounding may make of the features as well (heads/features.py), much larger than it is and either way: a
ridge against the directions in which INT8 differs from PyTorch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import nn

from calibration.bank import Bank, Entry
from calibration.dataset import UNKNOWN
from edge.screen.preprocess import Preprocessing, letterbox
from export.heads.features import HYGROMA, PLANE, HeadInputs
from export.model.heads import NO_PLANES
from export.model.vit import HygromaViT, normalise
from export.training.augment import augment, cut_anew
from export.training.precision import CPU, autocast
from export.training.train import thickness_log_odds

log = logging.getLogger("hygroma.train")

# Of every crop: as it is, and augmented. Rank correlation with the augmented view .54, without .50; with three more of the
# untouched stills no better.
VIEWS = 2
# Inverse L2 strength of the plane head, a still: .03 to .1 differ by .003 in ROC-AUC, .003 loses .01 (frozen DINOv2, 4 folds,
# five views a still). The student's, folds 0 and 1 with rounding: .1 and .3 differ by .001.
PROBE_C = 0.1
# How large what rounding adds is made for the fit, in spreads of a feature (the median over features; as it is, .04 to .06 of
# one). Plane, folds 0 and 1: rounding moves a log-odds by .19 and .29 without, by .14 and .17 at .1, .10 each at .3, .07 at .6,
# where fold 1 loses .011 of ROC-AUC. Hygroma, near even odds: .15 and .17 without, .13 and .13 at .5, .13 and .11 at 1; rank
# correlation .56 and .51 without, .57 and .54 at .5, .56 and .58 at 1; 2 loses.
PLANE_ROUNDING, HYGROMA_ROUNDING = 0.3, 0.7
# Views of a still for the student's plane head besides the one as it is: cut anew, so that the head does not learn from how a
# still is cut (training/augment.py). Without them the head ranks stills that are cut anew much worse than those that are not:
# ROC-AUC on the validation split .83 and .97 (n = 160), with them .92 and .96; fold 0 (n = 302) .89 and .97, with them .95 and
# .96. More of the augmentation than cut, mirror and gain is worse; so is a trunk trained on cuts (five epochs: .91 and .93).
CUTS = 4
NO_PLANE_HEAD = 10.0  # log-odds of a head that was not learned: every picture passes, and the manifest says that it cannot tell
# By source, of the teacher's head and of those that a trunk starts with. Phantoms stand for nothing real, but the exams that fit
# the decision are made of them: without any, 44 % of their assessable frames pass at 95 % of the real ones, at .2 69 % do.
PROBE_WEIGHTS = {"real": 1.0, "elsewhere": 1.0, "phantom": 0.2}
# Of the student's head as it is shipped, where rounding keeps the weights small besides. Four folds (n 302 each), mean ROC-AUC of
# the INT8 head as cut and cut anew, and phantoms that pass at 95 % of the real ones: at the weights above (C .3) .943, .934 and
# .72; as here .950, .936 and .68; phantoms at .05 .953, .937 and .64. Axial heads called assessable, held out (999): 0 to .1 %.
SHIPPED_WEIGHTS = {"real": 1.0, "elsewhere": 0.5, "phantom": 0.1}
# L2 strength a picture on standardised readings; .5 to 5 times as much differ by .02 in rank correlation, .001 in ROC-AUC.
NATURAL_L2, EVERY_L2 = 0.07, 0.025
# Inverse L2 strength of the head that learns labels, on standardised readings, and the weight of what was drawn or rendered
# beside a real picture. Chosen on simulated hospitals, not tuned on any real hygroma: none could be had.
LABEL_C, DRAWN_WEIGHT = 0.003, 0.5
PHANTOM_WEIGHT = 0.5  # of a phantom beside a picture made of real pixels
MOST_MM = 8.0  # thicker is no surer
TAKEOVER = 0.9  # share of the untouched stills that the second reading leaves to the first: .95 loses .002 of ROC-AUC
STEEPNESS = 10.0  # of the second reading beside the first, both in log thickness: 3 loses .001 to .002 of ROC-AUC
# Of the corner between them, per unit of log thickness. GELU dips by .17 below 0: at 10 that was as much as the first reading
# differs between stills, and the rank correlation fell from .39 to .27 (validation split, n = 119) and .55 to .54 (fold 0).
SHARPNESS = 100.0
CHUNK = 64  # crops that pass the trunk at once


@torch.no_grad()
def probe_plane_head(
    model: HygromaViT, bank: Bank, keep: np.ndarray, seed: int, cuts: int = 0, shown: HeadInputs | None = None
) -> None:
    """Set `model.plane_head` to the logistic regression on the trunk's features of the untouched stills, other anatomy and
    phantoms among the entries `keep`, in place; of each still `cuts` views more. Before fine-tuning it keeps the features
    from being distorted (arXiv 2202.10054). shown: of the model's trunk; without it rounding is left out of account. A still that
    only the given bundle judged counts as both kinds, each by its probability. Where no real still has a plane, the head says yes
    to everything (`NO_PLANE_HEAD`)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    told = [int(i) for i in keep if bank.entries[i].source in PROBE_WEIGHTS and bank.entries[i].plane_aim != UNKNOWN]
    real = [bank.entries[i].plane_aim for i in told if bank.entries[i].source in ("real", "elsewhere")]
    if not real or max(real) < NO_PLANES or min(real) > NO_PLANES:
        log.info("plane head left out: among %d stills and other anatomy not both kinds of planes", len(real))
        model.plane_head.weight.zero_()
        model.plane_head.bias.fill_(NO_PLANE_HEAD)
        return
    stills = [i for i in told if bank.entries[i].source == "real"]
    views, spec = [told, *[stills] * cuts], Preprocessing(size=model.config.image)
    parts = []
    for view, indices in enumerate(views):
        for start in range(0, len(indices), CHUNK):
            rng = np.random.default_rng([seed, view, start])
            crops = [
                letterbox(cut_anew(bank.crops[i], rng) if view else bank.crops[i], spec)
                for i in indices[start : start + CHUNK]
            ]
            parts.append(shown(PLANE, crops) if shown else _plane_reading(model, crops))
    read, rounding = (np.concatenate(part) for part in zip(*parts, strict=True))
    samples = either_way(read, blown_up(rounding, read, PLANE_ROUNDING)) if shown else read
    entries = [bank.entries[i] for indices in views for i in indices] * (len(samples) // len(read))
    by_source = SHIPPED_WEIGHTS if shown else PROBE_WEIGHTS
    weights = [by_source[e.source] / (1 + cuts if e.source == "real" else 1) for e in entries]
    weights = [weight * len(read) / len(samples) for weight in weights]
    scaler = StandardScaler().fit(read)
    probe = LogisticRegression(C=PROBE_C, max_iter=3000, class_weight="balanced")
    aims, share = np.array([e.plane_aim for e in entries]), np.array(weights)
    soft = np.flatnonzero((aims > 0) & (aims < 1))  # once as a plane and once as none
    probe.fit(
        scaler.transform(np.concatenate([samples, samples[soft]])),
        np.concatenate([aims > 0, np.zeros(len(soft), bool)]).astype(int),
        np.concatenate([np.where(aims > 0, aims * share, share), (1 - aims[soft]) * share[soft]]),
    )
    reading = Reading.folded(probe.coef_[0], float(probe.intercept_[0]), scaler.mean_, scaler.scale_)
    model.plane_head.weight.copy_(torch.from_numpy(reading.weight)[None])
    model.plane_head.bias.fill_(reading.bias)


def refit_hygroma_head(
    model: HygromaViT,
    shown: HeadInputs,
    bank: Bank,
    keep: np.ndarray,
    seed: int,
    on_chunk: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Set `model.hygroma_head`, in place, to what the entries `keep` say of the thickness; as it was where none does, or none
    untouched, or where all have one label. With real positives it learns their labels instead (`_by_labels`): few of them come
    with a thickness. shown: of the model's trunk. Deterministic from `seed`. `on_chunk(done, total)`
    counts the crops that have passed the trunk."""
    from sklearn.linear_model import LogisticRegression

    real = any(bank.entries[i].source == "real" and bank.entries[i].hygroma == 1 for i in keep)
    says = _has_finding if real else _says_something
    told = [int(i) for i in keep if bank.entries[i].standard and says(bank.entries[i])]
    entries = [bank.entries[i] for i in told] * VIEWS
    labels = np.array([e.hygroma for e in entries])
    natural = np.array([e.source in ("real", "cleaned") for e in entries], bool)
    if not natural.any() or not {0.0, 1.0} <= set(labels):
        log.warning(
            "hygroma head left as it was trained: among %d crops no untouched still, or one label", len(entries)
        )
        return
    read, rounding = _hygroma_reading(shown, bank, told, model.config.image, seed, on_chunk)
    mm = np.array([e.thickness_mm for e in entries])
    weights = np.array([PHANTOM_WEIGHT if e.source == "phantom" else 1.0 for e in entries])
    nuchal = slice(0, -model.config.width)  # without the whole picture's mean
    moved = blown_up(rounding[:, nuchal], read[:, nuchal], HYGROMA_ROUNDING)
    if real:
        _write(cast(nn.Sequential, model.hygroma_head), _by_labels(read[:, nuchal], moved, labels, entries))
        return
    first = _ridge(read[natural, nuchal], moved[natural], mm[natural], weights[natural], NATURAL_L2)
    second = _ridge(read[:, nuchal], moved, mm, weights, EVERY_L2)
    second = replace(second, bias=second.bias - float(np.quantile(second(read[natural, nuchal]), TAKEOVER)))
    head = cast(nn.Sequential, model.hygroma_head)
    _write(head, first, second)
    with torch.no_grad():
        said = head(torch.from_numpy(read)).numpy()
        known = labels != UNKNOWN
        scale = LogisticRegression().fit(said[known], labels[known])  # to log-odds
        _, output = _layers(head)
        output.weight.mul_(float(scale.coef_[0, 0]))
        output.bias.fill_(float(scale.intercept_[0]))


@dataclass(frozen=True)
class Reading:
    """A linear reading of features [N,D]. `weight`: float64 [D]."""

    weight: np.ndarray
    bias: float

    @classmethod
    def folded(cls, weight: np.ndarray, bias: float, middle: np.ndarray, spread: np.ndarray) -> Reading:
        """One of standardised features, (x - middle) / spread, as a reading of the features themselves."""
        own = weight / spread
        return cls(own, float(bias - own @ middle))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return features @ self.weight + self.bias


def _ridge(nuchal: np.ndarray, moved: np.ndarray, mm: np.ndarray, weights: np.ndarray, strength: float) -> Reading:
    """The reading of log thickness, mm-equivalents, that minds `moved` least. nuchal, moved [N,D]; mm and weights [N]."""
    from sklearn.linear_model import Ridge

    middle, spread = nuchal.mean(0), nuchal.std(0).clip(min=1e-4)
    aim = np.tile(np.log(mm.clip(max=MOST_MM)), 2)
    fitted = Ridge(alpha=strength * len(aim)).fit(
        (either_way(nuchal, moved) - middle) / spread, aim, np.tile(weights, 2)
    )
    return Reading.folded(fitted.coef_, float(fitted.intercept_), middle, spread)


def blown_up(rounding: np.ndarray, features: np.ndarray, share: float) -> np.ndarray:
    """What rounding adds to features, both [N,D], so large that it is `share` of a feature's spread in half of them."""
    ratio = float(np.median(rounding.std(0) / features.std(0).clip(min=1e-4)))
    return rounding * (share / ratio if ratio > 0 else 0.0)


def either_way(features: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Features [N,D] as they would be moved, and moved the other way, [2N,D]."""
    return np.concatenate([features + moved, features - moved])


def _by_labels(nuchal: np.ndarray, moved: np.ndarray, labels: np.ndarray, entries: Sequence[Entry]) -> Reading:
    """The reading of log-odds of a finding that minds `moved` least. nuchal, moved [N,D]; labels {0,1} [N]. Both classes count
    alike, and what was drawn or rendered counts half."""
    from sklearn.linear_model import LogisticRegression

    middle, spread = nuchal.mean(0), nuchal.std(0).clip(min=1e-4)
    weights = np.array([1.0 if e.source in ("real", "cleaned") else DRAWN_WEIGHT for e in entries])
    fitted = LogisticRegression(C=LABEL_C, max_iter=3000, class_weight="balanced").fit(
        (either_way(nuchal, moved) - middle) / spread, np.tile(labels, 2), np.tile(weights, 2) / 2
    )
    return Reading.folded(fitted.coef_[0], float(fitted.intercept_[0]), middle, spread)


def _write(head: nn.Sequential, first: Reading, second: Reading | None = None) -> None:
    """Make `head` say first + STEEPNESS * max(second, 0), with three of its hidden units: GELU(x) - GELU(-x) = x, and
    GELU(s x) / s is nearly max(x, 0). Without a second reading it says the first."""
    hidden, output = _layers(head)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    corner = [] if second is None else [(second, SHARPNESS, STEEPNESS / SHARPNESS)]
    with torch.no_grad():
        for unit, (reading, factor, told) in enumerate([(first, 1.0, 1.0), (first, -1.0, -1.0), *corner]):
            hidden.weight[unit, : len(reading.weight)] = torch.from_numpy(factor * reading.weight)
            hidden.bias[unit] = factor * reading.bias
            output.weight[0, unit] = told


def _layers(head: nn.Sequential) -> tuple[nn.Linear, nn.Linear]:
    return cast(nn.Linear, head[0]), cast(nn.Linear, head[2])


def _hygroma_reading(
    shown: HeadInputs, bank: Bank, told: list[int], size: int, seed: int, on_chunk: Callable[[int, int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """What the hygroma head is shown of the entries `told`, VIEWS of each, and what rounding adds, float32 [VIEWS*N,D] each."""
    spec, parts = Preprocessing(size=size), []
    for view in range(VIEWS):
        for start in range(0, len(told), CHUNK):
            on_chunk(view * len(told) + start, VIEWS * len(told))
            rng = np.random.default_rng([seed, view, start])
            crops = [
                augment(bank.crops[i], bank.entries[i].box, size, rng)[0] if view else letterbox(bank.crops[i], spec)
                for i in told[start : start + CHUNK]
            ]
            parts.append(shown(HYGROMA, crops))
    read, rounding = (np.concatenate(part) for part in zip(*parts, strict=True))
    return read, rounding


@torch.no_grad()
def _plane_reading(model: HygromaViT, crops: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What the plane head is shown of crops, uint8 [S,S] each, float32 [N,D], and no rounding."""
    model.eval()
    with autocast(CPU):
        tokens = model(normalise(torch.from_numpy(np.stack(crops))[:, None])).tokens
    read = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1).float().numpy()
    return read, np.zeros_like(read)


def _says_something(entry: Entry) -> bool:
    """The thickness is known, and may be learned from (`thickness_log_odds`)."""
    return not math.isnan(thickness_log_odds(entry))


def _has_finding(entry: Entry) -> bool:
    return entry.hygroma != UNKNOWN
