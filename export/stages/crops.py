"""Which crops of the bank each run of a recipe is shown, for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.bank import UNKNOWN, Bank
from calibration.stills import FOLDS, load_stills, read_grey
from edge.errors import InputError
from edge.screen.preprocess import Preprocessing, letterbox
from edge.screen.still import read_still
from export.bundle import LabelledCrops
from export.int8.log_odds_shift import SAMPLE
from export.phantoms import standard_crops
from export.report.evidence import entry_id
from export.training.train import draw_epoch
from export.training.unlabelled import require_batch

REFIT = FOLDS  # the run that trains on every training still; the shipped weights
SCORED = ("real", "sham", "borderline", "lesion")  # sources whose standard planes the hygroma head scores
UNDRAWN = ("real", "cleaned", "hc18")  # sources that are shown without labels: nothing was drawn into them
CALIBRATION_CROPS = 128  # 32 to 500 suffice (docs/design.md#quantisation)
TYPICAL_PHANTOMS = 128  # stills, two a patient: the 99th centile of distances needs a hundred


def run_name(run: int) -> str:
    return "refit" if run == REFIT else f"fold{run}"


@dataclass(frozen=True)
class Crops:
    """The bank, and the folder with the stills that it was made of. spec: the student's; seed: the recipe's, of every draw."""

    bank: Bank
    data: Path
    spec: Preprocessing
    seed: int

    def of(self, keep: np.ndarray, spec: Preprocessing | None = None) -> np.ndarray:
        """What the device would make of these entries, uint8 [N,S,S]; S is the student's, unless `spec` says another. An
        untouched still is read again as `hygroma score` reads it, fan and all; an edited or rendered one comes from the
        bank."""
        spec, stills, out = spec or self.spec, load_stills(self.data), []
        for i in keep:
            entry, crop = self.bank.entries[i], None
            if entry.source == "real":
                crop = read_still(read_grey(stills[entry.still].path), spec).crop
            out.append(letterbox(self.bank.crops[i], spec) if crop is None else crop)
        return np.stack(out)

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
        fold = -1 if run == REFIT else run
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
        real = [i for i in self.training(run) if entries[i].plane == 1 and entries[i].source in SCORED]
        return self.of(rng.permutation(real)[:SAMPLE], spec)[:, None]

    def labelled(self, run: int, most: int = 0, spec: Preprocessing | None = None) -> LabelledCrops:
        """What a run never trained on and has a hygroma label; its fold, or the refit's validation split, which the gate is
        judged on. At most `most` of them, drawn by the seed; 0: all."""
        entries = self.bank.entries
        keep = [
            i for i in self.held_out(run) if entries[i].hygroma != UNKNOWN and entries[i].source != "cleaned"
        ]
        if most and most < len(keep):
            keep = sorted(np.random.default_rng([self.seed, run, 8]).permutation(keep)[:most])
        return LabelledCrops(
            self.of(np.array(keep), spec)[:, None],
            np.array([entries[i].hygroma for i in keep]),
            [entry_id(entries[i], i) for i in keep],
        )

    def familiar(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """Crops of assessable planes: those that the embedding statistics are fitted on, and held-out ones, an array a source."""
        assessable = self.bank.where(
            lambda e: e.plane == 1 and (e.source == "phantom" or e.fold >= 0 and e.source != "hc18")
        )
        typical = self.bank.where(lambda e: e.fold == -1 and e.plane == 1 and e.source in ("real", "sham", "lesion"))
        phantoms = standard_crops(TYPICAL_PHANTOMS, self.spec)
        return self.of(assessable)[:, None], [self.of(typical)[:, None], phantoms[:, None]]

    def require_batches(self, runs: Sequence[int], batch: int, frames: int | None) -> None:
        """A teacher's epoch is the smallest, or that on unlabelled frames: a student's has the phantoms besides. InputError where
        one would not fill a batch. frames: of a site's own; None where no epoch is without labels."""
        for run in runs:
            keep = self.taught(run)
            has_stills = any(self.bank.entries[i].source == "real" for i in keep)
            found = len(draw_epoch(self.bank, keep, np.random.default_rng(0))) if has_stills else 0
            if frames is not None:
                require_batch(len(self.undrawn(run)) + frames, batch)
            if found < batch:
                raise InputError(
                    f"{self.data}: found {found} crops an epoch to train {run_name(run)} on, fewer than one batch "
                    f"({batch}); add training stills, or lower `batch` in the recipe"
                )
