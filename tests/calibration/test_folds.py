"""Folds of our own: grouped, stratified, no class missing that could be there, and the same whatever else is installed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.dataset import FOLDS
from calibration.folds import grouped_folds

# Patients by the classes of their images.
SITES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(any), min_size=1, max_size=24)


def images(patients: list[tuple[int, int]]) -> tuple[list[int], list[str]]:
    labels, groups = [], []
    for number, of_class in enumerate(patients):
        for label, count in enumerate(of_class):
            labels += [label] * count
            groups += [f"p{number}"] * count
    return labels, groups


def classes_by_fold(folds: np.ndarray, labels: list[int]) -> list[set[int]]:
    return [{label for label, own in zip(labels, folds, strict=True) if own == fold} for fold in range(FOLDS)]


@pytest.mark.requirement("P-09")
@given(patients=SITES, seed=st.integers(0, 5))
def test_a_patient_is_in_one_fold_and_no_class_is_missing_that_could_be_there(
    patients: list[tuple[int, int]], seed: int
) -> None:
    labels, groups = images(patients)
    folds = grouped_folds(labels, groups, FOLDS, seed)
    where = defaultdict(set)
    for group, fold in zip(groups, folds.tolist(), strict=True):
        where[group].add(fold)
    assert all(len(found) == 1 for found in where.values())
    if len(set(labels)) == 2:
        both = sum(1 for a, b in patients if a and b)
        pure = min(sum(1 for a, b in patients if a and not b), sum(1 for a, b in patients if b and not a))
        full = sum(found == {0, 1} for found in classes_by_fold(folds, labels))
        assert full >= min(FOLDS, both + pure)


@pytest.mark.requirement("P-09")
@given(patients=SITES, seed=st.integers(0, 5), shuffled=st.randoms())
def test_the_order_of_the_images_decides_nothing(patients: list[tuple[int, int]], seed: int, shuffled: object) -> None:
    labels, groups = images(patients)
    folds = grouped_folds(labels, groups, FOLDS, seed)
    order = list(range(len(labels)))
    shuffled.shuffle(order)  # type: ignore[attr-defined]
    again = grouped_folds([labels[i] for i in order], [groups[i] for i in order], FOLDS, seed)
    assert again.tolist() == folds[order].tolist()


@pytest.mark.requirement("P-09")
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("each", [4, 5, 7, 40])
def test_folds_are_of_equal_size(each: int, seed: int) -> None:
    labels, groups = images([(0, 2)] * each + [(2, 0)] * each)
    folds = grouped_folds(labels, groups, FOLDS, seed)
    for label in (0, 1):
        share = np.bincount(folds[np.array(labels) == label], minlength=FOLDS)
        assert share.min() > 0 and np.ptp(share) <= 2  # a patient


@pytest.mark.requirement("P-09")
def test_folds_are_these_on_every_machine_and_follow_from_the_seed() -> None:
    labels, groups = images([(1, 0), (0, 2), (3, 1), (0, 1), (2, 0), (1, 0), (0, 1), (0, 3), (1, 1)] * 2)
    found = [grouped_folds(labels, groups, FOLDS, seed).tolist() for seed in (0, 1)]
    assert found[0] != found[1]
    assert hashlib.sha256(repr(found).encode()).hexdigest()[:12] == "00c25484a0cf"
    said = "import calibration.leakage, sys; print('sklearn' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout.strip() == "False"
