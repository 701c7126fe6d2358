"""From held-out predictions to evidence: evaluation sets with their thresholds, the shipped operating point, and how the
hygroma head goes with the thickness of untouched stills."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from calibration.bank import Bank, Entry
from calibration.dataset import UNKNOWN
from edge.bundle.manifest import EvidenceRow, EvidenceTable, OperatingPoint
from edge.errors import InputError
from export.data import stands_on_real
from export.model.heads import HEADS, HYGROMA, KEEPING, NO_PLANES, PLANE, REAL_HYGROMA, REPORTED, SPECIFIC, Head
from export.report import metrics
from export.report.records import Correlation, IncreasedArea
from export.report.validate import EvaluationSet, Step

SPECIFICITY = 0.98  # a frame's, at the operating point: the evidence over an exam does the rest
PLANES_KEPT = 0.95  # of standard planes that the plane threshold keeps (docs/design.md#evidence: other anatomy is judged there)
FORMS = ("teacher", "student", "qdq")
EXTRAS = ("cut_plane", "aspect", "baseline_hygroma", "engine_hygroma")  # see export/report/framing.py; and export/report/paper.py
HELD_OUT = {
    "folds": "held out of training fold by fold",
    "validation": "the validation split, never trained on",
}


@dataclass(frozen=True)
class HeldOut:
    """Predictions on entries that their model never saw. name: a key of HELD_OUT. parts [n]: which part each entry was
    held out in ("fold 0", "validation"). probability: "<form>_<head>" -> float [n], and what else `EXTRAS` names; maps: form ->
    nuchal map, probability per patch [n,G,G]."""

    name: str
    entries: Sequence[Entry]
    ids: Sequence[str]
    parts: np.ndarray
    probability: Mapping[str, np.ndarray]
    maps: Mapping[str, np.ndarray]

    def known(self, head: Head) -> np.ndarray:
        """bool [n]: the entries that a head is judged on."""
        return np.array([
            e.source in head.sources
            and e.label(head.column) != UNKNOWN
            and (head.real_positives or e.source != "real" or e.label(head.column) == 0)
            for e in self.entries
        ], bool)  # fmt: skip

    def labels(self, head: Head) -> np.ndarray:
        """float [n], UNKNOWN among them."""
        return np.array([e.label(head.column) for e in self.entries])

    def said(self, form: str, head: Head) -> np.ndarray:
        """A form's probabilities of a head [n]."""
        return self.probability[f"{form}_{head.name}"]


def held_out(
    name: str, bank: Bank, parts: Mapping[str, Mapping[str, np.ndarray]], heads: Sequence[Head] = HEADS
) -> HeldOut:
    """`parts`: name of each part -> its predictions, with "index" into the bank; one after the other in that order. Of the
    forms that all parts have."""
    forms = [form for form in FORMS if all(f"{form}_map" in part for part in parts.values())]
    index = np.concatenate([p["index"] for p in parts.values()])
    entries = [bank.entries[i] for i in index]
    return HeldOut(
        name,
        entries,
        [entry_id(e, i) for e, i in zip(entries, index, strict=True)],
        np.concatenate([np.full(len(p["index"]), part) for part, p in parts.items()]),
        {
            f"{form}_{head.name}": np.concatenate([p[f"{form}_{head.name}"] for p in parts.values()])
            for form in forms
            for head in heads
        }
        | {
            name: np.concatenate([p[name] for p in parts.values()])
            for name in EXTRAS
            if all(name in p for p in parts.values())
        },
        {form: np.concatenate([p[f"{form}_map"] for p in parts.values()]) for form in forms},
    )


def entry_id(entry: Entry, index: int) -> str:
    """What messages call an entry of the bank: source, still, place in the bank."""
    return f"{entry.source}:{entry.still:04d}:{index}"


def judged_on_real(bank: Bank) -> bool:
    """Whether the gate and the operating point stand on real positives: where there are enough, or no others. Else they stand on
    simulated ones."""
    found = [e for e in bank.entries if e.source == "real" and e.fold >= 0 and e.hygroma == 1]
    enough = stands_on_real(len(found), len({e.owner for e in found}))
    return enough or not any(e.source == "lesion" for e in bank.entries)


def judged_heads(bank: Bank, heads: Sequence[Head]) -> list[Head]:
    """The heads of a model as they are judged on a bank's entries. The hygroma head comes first on what decides, real or
    simulated positives, and again, reported only, on the other kind where there is any. The plane head only where planes are
    labelled."""
    entries = [e for e in bank.entries if e.fold >= 0]
    out: list[Head] = []
    for head in heads:
        if head.name == HYGROMA.name:
            deciding, other = (REAL_HYGROMA, HYGROMA) if judged_on_real(bank) else (HYGROMA, REAL_HYGROMA)
            out.append(deciding)
            wanted = "real" if other is REAL_HYGROMA else "lesion"
            if any(e.source == wanted and e.hygroma == 1 for e in entries):
                out.append(replace(other, gated=REPORTED))
        elif head.name != PLANE.name or len({e.plane for e in entries if e.source == "real"} - {UNKNOWN}) == 2:
            out.append(head)
    return out


def evaluation_sets(folds: HeldOut, validation: HeldOut | None, heads: Sequence[Head] = HEADS) -> list[EvaluationSet]:
    """Of every head, out of fold and on the validation split, where there is one. A fold is judged at the threshold that the
    other folds give, the validation split at the shipped one, which all folds give. The hygroma head's is that of the first of
    `heads`."""
    sets = []
    for data in (folds, validation):
        if data is None:
            continue
        for head in heads:
            keep = data.known(head)
            labels, parts = data.labels(head)[keep], data.parts[keep]
            if len(set(labels.tolist())) < 2:
                if data is folds and head.gated != REPORTED:
                    raise InputError(
                        f"evaluation of the {head.called} head on {data.name}: {len(labels)} held-out images, all of one kind; "
                        "check `data` in the recipe"
                    )
                continue
            own = {form: data.said(form, head)[keep] for form in FORMS}
            decides = next(known for known in heads if known.name == head.name)
            limit: dict[str, np.ndarray | float]
            if data is folds:
                limit = {form: fold_thresholds(folds, form, decides)[keep] for form in ("teacher", "student")}
            else:
                limit = {form: shipped_threshold(folds, form, decides) for form in ("teacher", "student")}
            sets.append(
                EvaluationSet(
                    f"{head.called}, {data.name}",
                    head.kind,
                    head.task,
                    f"{head.images}; {HELD_OUT[data.name]}.",
                    [i for i, k in zip(data.ids, keep, strict=True) if k],
                    labels,
                    parts.tolist(),
                    [
                        Step("teacher", own["teacher"], limit["teacher"]),
                        Step("student", own["student"], limit["student"]),
                        Step("INT8", own["qdq"], limit["student"]),
                    ],
                    "student",
                    screening=head.screening,
                    # a still and what was made of it are one patient's, and a patient may have several
                    groups=[e.owner for e, k in zip(data.entries, keep, strict=True) if k],
                    gated=head.gated,
                )
            )
    return sets


def fold_thresholds(folds: HeldOut, form: str, decides: Head) -> np.ndarray:
    """float [n]: the threshold at which each entry is judged, chosen on what `decides` knows of the other parts."""
    keep = folds.known(decides)
    labels, said = folds.labels(decides), folds.said(form, decides)
    out = np.empty(len(keep))
    for part in np.unique(folds.parts):
        rest = keep & (folds.parts != part)
        out[folds.parts == part] = CHOOSE[decides.threshold](labels[rest], said[rest])
    return out


def shipped_threshold(folds: HeldOut, form: str, head: Head) -> float:
    """A head's threshold, chosen on the held-out predictions of all folds."""
    keep = folds.known(head)
    return CHOOSE[head.threshold](folds.labels(head)[keep], folds.said(form, head)[keep])


def operating_point(folds: HeldOut, heads: Sequence[Head]) -> OperatingPoint:
    """The student's thresholds, of heads as `judged_heads` has them. Its conversion is judged at the same ones."""
    decides = {head.name: head for head in reversed(heads)}  # the first of a name
    hygroma = shipped_threshold(folds, "student", decides[HYGROMA.name])
    return OperatingPoint(hygroma, _plane_threshold(folds, PLANE.name in decides))


def _plane_threshold(folds: HeldOut, labelled: bool) -> float:
    """Without labels of planes: that which PLANES_KEPT of what the given bundle calls one reach; and half where nothing was
    asked, since there is no plane head then, and what stands in its place says 1."""
    if labelled:
        return shipped_threshold(folds, "student", PLANE)
    soft = np.array([e.soft_plane if e.source == "real" else UNKNOWN for e in folds.entries])
    called = soft >= NO_PLANES
    return _keeping_threshold(called, folds.said("student", PLANE)) if called.any() else NO_PLANES


def _specific_threshold(labels: np.ndarray, probability: np.ndarray) -> float:
    """The lowest probability at which SPECIFICITY of the negatives stay below."""
    return float(np.clip(np.quantile(probability[labels == 0], SPECIFICITY), 0.01, 0.99))


def _keeping_threshold(labels: np.ndarray, probability: np.ndarray) -> float:
    """The probability that PLANES_KEPT of the positives reach."""
    return float(np.clip(np.quantile(probability[labels == 1], 1 - PLANES_KEPT), 0.01, 0.99))


Choose = Callable[[np.ndarray, np.ndarray], float]  # (labels, probability) -> threshold
CHOOSE: dict[str, Choose] = {SPECIFIC: _specific_threshold, KEEPING: _keeping_threshold}  # by a head's rule


def cross_fitted(labels: np.ndarray, probability: np.ndarray, parts: np.ndarray, choose: Choose) -> np.ndarray:
    """A threshold per image, chosen on the other parts' held-out predictions."""
    out = np.empty(len(labels))
    for part in np.unique(parts):
        out[parts == part] = choose(labels[parts != part], probability[parts != part])
    return out


LEAST_RANKED = 3  # stills that Fisher's interval of a rank correlation takes off n
THICKNESS_IMAGES = {"real": "untouched", "cleaned": "calipers painted out"}


def thickness_rows(splits: Sequence[HeldOut], form: str = "qdq") -> list[Correlation]:
    """Rank correlation of the hygroma head, INT8 unless `form` says another, with the heuristic thickness of real stills,
    untouched and with the calipers painted out, split by split. Of folds: the mean of each one's own, on Fisher's scale, since
    each fold has a model of its own and what two of them say of healthy stills is not on one scale."""
    from scipy.stats import spearmanr

    rows: list[Correlation] = []
    for data in splits:
        for source, images in THICKNESS_IMAGES.items():
            keep = np.array([e.source == source and e.thickness_mm != UNKNOWN for e in data.entries])
            said, mm = data.probability[f"{form}_hygroma"], np.array([e.thickness_mm for e in data.entries])
            parts = [own for part in np.unique(data.parts) if (own := keep & (data.parts == part)).sum() > LEAST_RANKED]
            if not parts:
                continue
            weights = np.array([own.sum() - LEAST_RANKED for own in parts])
            each = np.clip([spearmanr(mm[own], said[own])[0] for own in parts], -0.9999, 0.9999)
            mean, spread = np.average(np.arctanh(each), weights=weights), 1.96 / np.sqrt(weights.sum())
            rho, low, high = np.tanh([mean, mean - spread, mean + spread])
            rows.append(
                {
                    "split": f"{data.name}, {images}",
                    "n": int(sum(own.sum() for own in parts)),
                    "rho": float(rho),
                    "low": float(low),
                    "high": float(high),
                }
            )
    return rows


def increased_rows(splits: Sequence[HeldOut], form: str = "qdq") -> list[IncreasedArea]:
    """Area under the ROC curve of the hygroma head, INT8 unless `form` says another: standard planes whose finding nobody knows,
    which no label of training saw (in the shipped data those that look thickened by eye), against the healthy ones, each by its
    rank in its own fold. A split without one gives no row."""
    from scipy.stats import rankdata

    rows: list[IncreasedArea] = []
    for data in splits:
        for source, images in THICKNESS_IMAGES.items():
            keep = np.array([e.source == source and e.plane == 1 and e.hygroma != 1 for e in data.entries])
            increased = np.array([e.hygroma == UNKNOWN for e in data.entries])[keep]
            if not 0 < increased.sum() < len(increased):
                continue
            said, own = data.probability[f"{form}_hygroma"][keep], data.parts[keep]
            rank = np.empty(len(said))
            for part in np.unique(own):
                rank[own == part] = rankdata(said[own == part]) / (own == part).sum()
            area = metrics.auc(increased, rank)
            rows.append(
                {
                    "split": f"{data.name}, {images}",
                    "n": area.n,
                    "positives": int(increased.sum()),
                    "auc": area.value,
                    "low": area.low,
                    "high": area.high,
                }
            )
    return rows


def thickness_table(thickness: Sequence[Correlation], increased: Sequence[IncreasedArea]) -> EvidenceTable | None:
    """The bundle's evidence table; None where nothing was measured."""
    rows = [EvidenceRow("Spearman rho", r["split"], r["n"], r["rho"], r["low"], r["high"]) for r in thickness]
    rows += [
        EvidenceRow(f"ROC-AUC, {r['positives']} without a finding", r["split"], r["n"], r["auc"], r["low"], r["high"])
        for r in increased
    ]
    if not rows:
        return None
    return EvidenceTable(
        "thickness of real stills",
        "real",
        "How the INT8 hygroma probability goes with the heuristic thickness of real stills (rank correlation), and where the "
        "standard planes without a finding (in the shipped data: thickened by eye) rank among the healthy ones. The thickness "
        "is a weak label, measured by a heuristic.",
        tuple(rows),
    )
