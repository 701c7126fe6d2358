"""Which crops of the bank each run of a recipe is shown, for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from calibration.bank import VALIDATION, Bank, Entry
from calibration.dataset import FOLDS, UNKNOWN, LabelledImage
from calibration.images import read_grey
from edge.errors import InputError
from edge.screen.preprocess import Preprocessing, letterbox
from edge.screen.still import read_still
from export.bundle import LabelledCrops
from export.int8.log_odds_shift import SAMPLE
from export.phantoms import standard_crops
from export.report.evidence import entry_id, judged_on_real
from export.training.train import draw_epoch
from export.training.unlabelled import require_batch

REFIT = FOLDS  # the run that trains on every training still; the shipped weights
SCORED = ("real", "sham", "borderline", "lesion")  # sources whose standard planes the hygroma head scores
TYPICAL = ("real", "sham", "lesion")  # sources whose standard planes the limit of distances keeps
UNDRAWN = ("real", "cleaned", "elsewhere")  # sources that are shown without labels: nothing was drawn into them
CALIBRATION_CROPS = 128  # 32 to 500 suffice (docs/design.md#quantisation)
GATE_CROPS = 1000  # training crops that a gate without a held-out split is judged on
TYPICAL_PHANTOMS = 128  # stills, two a patient: the 99th centile of distances needs a hundred


def run_name(run: int) -> str:
    return "refit" if run == REFIT else f"fold{run}"


@dataclass(frozen=True)
class Familiar:
    """Crops uint8 [N,1,S,S] of assessable planes. assessable: for the statistics; typical: for the limit, an array a source.
    folds int [N]: of those of `assessable` that are typical too, -1 for the others; None where they need not be."""

    assessable: np.ndarray
    typical: list[np.ndarray]
    folds: np.ndarray | None = None


@dataclass(frozen=True)
class Crops:
    """The bank, and the stills that it was made of. spec: the student's; seed: the recipe's, of every draw."""

    bank: Bank
    stills: Sequence[LabelledImage]
    spec: Preprocessing
    seed: int
    _read: dict[tuple[int, Preprocessing], np.ndarray | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def judged_on_real(self) -> bool:
        """Whether the gate and the operating point stand on real positives; else on simulated ones."""
        return judged_on_real(self.bank)

    @cached_property
    def holdout(self) -> bool:
        """Whether there are images that no run trains on."""
        return any(e.source == "real" and e.fold == VALIDATION for e in self.bank.entries)

    def gated(self, entry: Entry) -> bool:
        """Whether an entry is among those that the gate is judged on: real ones; or real negatives, and what was drawn."""
        if entry.hygroma == UNKNOWN or entry.source not in SCORED:
            return False
        return entry.source == "real" if self.judged_on_real else entry.source != "real" or entry.hygroma == 0

    def of(self, keep: np.ndarray, spec: Preprocessing | None = None) -> np.ndarray:
        """What the device would make of these entries, uint8 [N,S,S]; S is the student's, unless `spec` says another. An
        untouched still is read again as `hygroma score` reads it, fan and all; an edited or rendered one comes from the
        bank."""
        spec, out = spec or self.spec, []
        for i in keep:
            entry, crop = self.bank.entries[i], None
            if entry.source == "real":
                crop = self._still(entry.still, spec)
            out.append(letterbox(self.bank.crops[i], spec) if crop is None else crop)
        return np.stack(out) if out else np.empty((0, spec.size, spec.size), np.uint8)

    def _still(self, index: int, spec: Preprocessing) -> np.ndarray | None:
        """A still as the device reads it; None where it finds no fan. Read once: a run asks for each some ten times."""
        if (index, spec) not in self._read:
            self._read[index, spec] = read_still(read_grey(self.stills[index].path), spec).crop
        return self._read[index, spec]

    def taught(self, run: int) -> np.ndarray:
        """Indices of what the teacher of a run trains on: real pixels of the other folds. It teaches them, and no phantoms."""
        return self.bank.where(lambda e: e.fold >= 0 and e.fold != run and e.source != "phantom")

    def training(self, run: int) -> np.ndarray:
        """Indices of what the student of a run trains on."""
        return self.bank.where(lambda e: e.fold >= 0 and e.fold != run or e.source == "phantom")

    def undrawn(self, run: int) -> list[int]:
        """Indices of what the student of a run is shown without labels: of what its teacher trains on, that into which nothing
        was drawn."""
        return [int(i) for i in self.taught(run) if self.bank.entries[i].source in UNDRAWN]

    def held_out(self, run: int) -> np.ndarray:
        """Indices of what a run's models are judged on and never saw."""
        fold = VALIDATION if run == REFIT else run
        return self.bank.where(lambda e: e.fold == fold and e.source in ("real", "cleaned", "sham", "lesion"))

    def calibration(self, run: int, spec: Preprocessing | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Two disjoint sets of training crops, uint8 [N,1,S,S]: for the ranges, and for choosing how they are taken."""
        rng = np.random.default_rng([self.seed, run, 7])
        keep = rng.permutation(self.training(run))[: 2 * CALIBRATION_CROPS]
        crops = self.of(keep, spec)[:, None]
        half = len(crops) // 2
        return crops[:half], crops[half:]

    def judged(self, run: int, spec: Preprocessing | None = None) -> np.ndarray:
        """Training crops that the hygroma head judges, real pixels of standard planes, uint8 [N,1,S,S]: for the logit offset."""
        rng, entries = np.random.default_rng([self.seed, run, 8]), self.bank.entries
        real = [i for i in self.training(run) if entries[i].standard and entries[i].source in SCORED]
        return self.of(rng.permutation(real)[:SAMPLE], spec)[:, None]

    def labelled(self, run: int, most: int = 0, spec: Preprocessing | None = None) -> LabelledCrops:
        """What a run never trained on and the gate is judged on: of its fold, or of the refit's validation split. Without such a
        split the refit's are GATE_CROPS of its training crops: they show what a conversion changes, not how good it is. At most
        `most` of them, drawn by the seed; 0: all."""
        entries, found = self.bank.entries, self.held_out(run)
        if run == REFIT and not self.holdout:
            found, most = self.taught(run), min(most or GATE_CROPS, GATE_CROPS)
        keep = [i for i in found if self.gated(entries[i])]
        if most and most < len(keep):
            keep = sorted(np.random.default_rng([self.seed, run, 8]).permutation(keep)[:most])
        return LabelledCrops(
            self.of(np.array(keep), spec)[:, None],
            np.array([entries[i].hygroma for i in keep]),
            [entry_id(entries[i], i) for i in keep],
        )

    def familiar(self, run: int = REFIT) -> Familiar:
        """What a run's embedding statistics are fitted on, and the limit of distances is set on: what the run never saw, and
        phantoms. Without a held-out split the refit saw all, and each fold is held against the statistics of the others."""
        assessable = self.bank.where(
            lambda e: e.standard and (e.source == "phantom" or e.fold >= 0 and e.fold != run and e.source != "elsewhere")
        )
        phantoms = standard_crops(TYPICAL_PHANTOMS, self.spec)[:, None]
        seen = run == REFIT and not self.holdout
        if seen:
            entries = [self.bank.entries[i] for i in assessable]
            folds = np.array([e.fold if e.source in TYPICAL else -1 for e in entries], int)
            return Familiar(self.of(assessable)[:, None], [phantoms], folds)
        fold = VALIDATION if run == REFIT else run
        typical = self.bank.where(lambda e: e.standard and e.source in TYPICAL and e.fold == fold)
        return Familiar(self.of(assessable)[:, None], [self.of(typical)[:, None], phantoms])

    def require_batches(self, source: str, runs: Sequence[int], batch: int, frames: int | None) -> None:
        """A teacher's epoch is the smallest, or that on unlabelled frames: a student's has the phantoms besides. InputError where
        one would not fill a batch. source: what messages call the data; frames: of a site's own;
        None where no epoch is without labels."""
        for run in runs:
            keep = self.taught(run)
            has_stills = any(self.bank.entries[i].source == "real" for i in keep)
            found = len(draw_epoch(self.bank, keep, np.random.default_rng(0))) if has_stills else 0
            if frames is not None:
                require_batch(len(self.undrawn(run)) + frames, batch)
            if found < batch:
                raise InputError(
                    f"{source}: found {found} crops an epoch to train {run_name(run)} on, fewer than one batch "
                    f"({batch}); add training stills, or lower `batch` in the recipe"
                )
