"""A data set as its users give it: a folder per class, or a table (docs/data.md). All commands read it here. No image is decoded:
what is wrong with names, labels and folds is said before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from calibration.dataset import (
    HOLDOUT,
    NEGATIVE,
    OTHER_PLANE,
    POSITIVE,
    STANDARD_PLANE,
    UNKNOWN,
    Dataset,
    LabelledImage,
)
from calibration.dataset_table import read_dataset
from calibration.images import IMAGES, find_images, is_image
from calibration.naming import some
from calibration.origin import read_origin
from calibration.table import find_named, name_of, one_name
from edge.errors import InputError
from edge.kinds import is_litter

OTHER = "other"  # a folder beside the two classes'


def open_dataset(source: Path, positive: str = POSITIVE, columns: Sequence[str] = ()) -> Dataset:
    """The data set that a folder or a table holds. positive: the folder of the positive class, where it has another name. columns:
    further labels, of tables that have them. InputError names what does not fit, and the fix."""
    found = _of_folders(source, one_name(positive)) if source.is_dir() else read_dataset(source, columns)
    return replace(found, origin=read_origin(source))


def open_datasets(sources: Sequence[Path], positive: str = POSITIVE, columns: Sequence[str] = ()) -> list[Dataset]:
    """Several data sets that are used together, by names that differ. One of them at least has each of the further labels."""
    sets = [open_dataset(source, positive, columns) for source in sources]
    known = {column for found in sets for image in found.images for column in image.labels}
    if absent := [column for column in columns if column not in known]:
        raise InputError(
            f"{', '.join(map(str, sources))}: no image has {some(absent)}, which the recipe's heads name; add the column, with 1 and 0"
        )
    if len(sets) == 1:
        return sets
    twice = [path for path, n in Counter(image.path.resolve() for found in sets for image in found.images).items() if n > 1]
    if twice:
        raise InputError(f"{twice[0]}: in two of the data sets; name each image once")
    return [
        replace(found, images=[replace(image, name=f"{number}/{image.name}") for image in found.images])
        for number, found in enumerate(sets, 1)
    ]


def stills_of(sets: Sequence[Dataset]) -> list[LabelledImage]:
    """The images of all data sets but those of other anatomy alone, in order."""
    return [image for found in sets if not found.elsewhere for image in found.images]


def elsewhere_of(sets: Sequence[Dataset], held_out: bool) -> list[LabelledImage]:
    """The images of data sets of other anatomy alone: those to train on, or those that are never trained on."""
    return [image for found in sets if found.elsewhere for image in found.images if (image.fold == HOLDOUT) == held_out]


def _of_folders(folder: Path, positive: str) -> Dataset:
    classes, with_other = _classes(folder, positive)
    images: list[LabelledImage] = []
    for kind in (*classes, *([OTHER] if with_other else [])):
        files, others = find_images(find_named(folder, kind))
        if others:  # left out in silence they would be lost data
            raise InputError(
                f"{folder / kind}: {some(name_of(p, folder) for p in others)}: not among the images that are read "
                f"({IMAGES}); export them as PNG, or move them away"
            )
        if not files:
            raise InputError(f"{folder / kind}: holds no image ({IMAGES}); add some, or remove the folder")
        names = [name_of(p, folder) for p in files]
        if twice := [name for name, n in Counter(names).items() if n > 1]:
            raise InputError(f"{folder / kind}: two files of one name, written differently: {some(twice)}; rename one of each")
        finding = UNKNOWN if kind not in classes else float(kind == classes[1])
        # Who keeps other planes apart says that the rest are standard ones; who does not says nothing of planes.
        plane = UNKNOWN if not with_other else STANDARD_PLANE if kind in classes else OTHER_PLANE
        images += [LabelledImage(p, name, hygroma=finding, plane=plane) for p, name in zip(files, names, strict=True)]
    return Dataset(folder, folder, classes, images, patients_known=False)


def _classes(folder: Path, positive: str) -> tuple[tuple[str, str], bool]:
    """The negative and the positive folder, and whether there is one of other planes."""
    layout = f"expected a folder per class, such as {folder}/{POSITIVE} and {folder}/{NEGATIVE}, or a table (docs/data.md)"
    found = sorted(name_of(p, folder) for p in folder.iterdir() if p.is_dir() and not is_litter(p))
    loose = [p.name for p in sorted(folder.iterdir()) if is_image(p)]
    if loose:
        raise InputError(f"{folder}: {some(loose)}: outside the class folders; move each into the folder of its class")
    if not found:
        raise InputError(f"{folder}: empty; {layout}")
    other = OTHER in found and positive != OTHER
    kinds = [name for name in found if name != OTHER or not other]
    if len(kinds) == 1:
        raise InputError(f"{folder}: one class only, {kinds[0]!r}; {layout}")
    if len(kinds) > 2:
        raise InputError(
            f"{folder}: {len(kinds)} folders, {some(kinds)}; two classes are compared, and {OTHER!r} may lie beside them: move "
            "the others away"
        )
    if positive not in kinds:
        raise InputError(
            f"{folder}: classes {kinds[0]!r} and {kinds[1]!r}, none is {positive!r}; name the positive one: --positive {kinds[0]}"
        )
    return (kinds[0] if kinds[1] == positive else kinds[1], positive), other
