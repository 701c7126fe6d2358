"""The shipped bundle's data as tables: the same stills, folds, labels and crops that 8222f26 made of the private layout."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shared_tables import DATA, HEADS, NUCHAL, OTHERS, write_hospital, write_tables

from calibration.bank import VALIDATION, build_bank, read_still_picture
from calibration.dataset import HOLDOUT
from calibration.leakage import assign_folds, perceptual_hash, same_images
from calibration.open_dataset import elsewhere_of, open_dataset, open_datasets, stills_of

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")

KNOWN = json.loads(Path(__file__).with_name("shipped_bank_8222f26.json").read_text())
# Of those that 8222f26's bank began with: the 473 entries of 60 and 20 were compared by hand, equal to the last bit.
STILLS, ELSEWHERE = 12, 4
LEVELS = 0.5  # grey levels: a crop's mean on another processor


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.mark.requirement("P-09")
def test_every_still_keeps_its_patient_and_the_shipped_bundles_fold(tables: list[Path]) -> None:
    nuchal = open_dataset(tables[0])
    folds = assign_folds(nuchal, [image.group for image in nuchal.images], 0)
    said = [
        [image.path.name, image.group, VALIDATION if fold == HOLDOUT else int(fold)]
        for image, fold in zip(nuchal.images, folds, strict=True)
    ]
    assert hashlib.sha256(json.dumps(said).encode()).hexdigest() == KNOWN["folds"]


@pytest.mark.requirement("P-09")
def test_the_bank_of_the_tables_is_that_of_the_private_layout(tables: list[Path]) -> None:
    sets = open_datasets(tables)
    stills, elsewhere = stills_of(sets)[:STILLS], elsewhere_of(sets, held_out=False)[:ELSEWHERE]
    folds = np.array([still.fold for still in stills])
    bank = build_bank(stills, [still.group for still in stills], folds, elsewhere, 0, lambda done, total: None)
    assert len(bank.entries) == len(KNOWN["entries"])
    for crop, entry, known in zip(bank.crops, bank.entries, KNOWN["entries"], strict=True):
        said = [entry.still, entry.source, entry.fold, entry.plane, entry.hygroma, round(entry.thickness_mm, 6)]
        assert said == known[:6]
        box = None if entry.box is None else [round(side, 6) for side in entry.box]
        assert box == known[6]
        assert [crop.mean(), crop.std()] == pytest.approx(known[7:], abs=LEVELS)


def test_other_anatomy_is_named_by_its_site_and_the_sources_by_their_licence(tables: list[Path]) -> None:
    by_name = {path.name: open_dataset(path) for path in tables}
    assert not by_name[NUCHAL].elsewhere and by_name[HEADS].elsewhere and by_name[OTHERS].elsewhere
    assert len({image.site for image in by_name[OTHERS].images}) == 4
    origin = by_name[NUCHAL].origin
    assert origin is not None and "doi:10.17632/n2rbrb9t4f.1" in origin.citation and origin.licence == "CC BY 4.0"


def test_a_made_up_hospital_is_labelled_as_a_hospitals_own_would_be(tmp_path: Path) -> None:
    found = open_dataset(write_hospital(tmp_path, images=12, lesions=5, patients=10))
    assert [image.hygroma for image in found.images] == [1.0] * 5 + [0.0] * 7
    assert len({image.patient for image in found.images}) == 10 and {image.site for image in found.images} == {"A", "B"}
    assert not any(image.anatomy for image in found.images)
    import cv2

    hashes = np.stack([perceptual_hash(cv2.imread(str(image.path), cv2.IMREAD_GRAYSCALE)) for image in found.images])
    assert same_images(hashes) == []


def test_a_larger_still_is_edited_at_the_usual_size_and_its_boxes_go_with_it(tables: list[Path], tmp_path: Path) -> None:
    import cv2

    image = next(image for image in open_dataset(tables[0]).images if image.editable)
    usual = read_still_picture(image)
    large = cv2.resize(usual.grey, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "large.png"), large)
    boxes = {name: tuple(2 * side for side in getattr(image, name)) for name in ("nt_box", "thalami_box")}
    found = read_still_picture(replace(image, path=tmp_path / "large.png", **boxes))
    assert found.grey.shape == usual.grey.shape and found.image.nt_box == pytest.approx(image.nt_box, abs=0.5)
    assert np.abs(found.grey.astype(int) - usual.grey).mean() < 2
