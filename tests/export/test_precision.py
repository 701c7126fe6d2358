"""Training takes float32 or bfloat16 by what this machine does faster, and says which."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("sklearn")

from test_training import TINY, bank

from export.model.vit import HygromaViT
from export.training import precision
from export.training.precision import BFLOAT16, CPU, FLOAT32, autocast, precision_on, product_ms, record, recorded
from export.training.train import Schedule, fit


@pytest.fixture(scope="module", autouse=True)
def one_precision() -> None:
    """Nothing is spared here: the choice is the subject."""


@pytest.fixture(autouse=True)
def forgets() -> Iterator[None]:
    """A machine is timed once a process."""
    precision._chosen.cache_clear()
    yield
    precision._chosen.cache_clear()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], list[bool]]:
    """Stand in for a processor: milliseconds of a product in float32 and in bfloat16. Gives the list of what was timed."""

    def make(full: float, half: float) -> list[bool]:
        timed: list[bool] = []

        def product(device: str, bfloat16: bool) -> float:
            timed.append(bfloat16)
            return half if bfloat16 else full

        monkeypatch.setattr(precision, "product_ms", product)
        return timed

    return make


@pytest.mark.requirement("X-01")
@pytest.mark.parametrize(
    ("full", "half", "expected"),
    [(10, 6, BFLOAT16), (10, 8, BFLOAT16), (10, 9, FLOAT32), (10, 10, FLOAT32), (10, 25, FLOAT32), (10, 500, FLOAT32)],
)
def test_the_faster_one_is_taken_and_float32_where_they_are_alike(
    machine: Callable[[float, float], list[bool]], full: float, half: float, expected: str
) -> None:
    machine(full, half)
    assert precision_on(CPU).name == expected
    with autocast(CPU):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == getattr(torch, expected)
    with autocast(CPU, allowed=False):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_machine_without_units_for_it_is_asked_for_one_product_only(
    machine: Callable[[float, float], list[bool]],
) -> None:
    timed = machine(10, 500)
    for _ in range(3):
        precision_on(CPU)
    assert timed.count(True) == 1


def test_the_choice_is_said_with_its_figures_once(
    machine: Callable[[float, float], list[bool]], caplog: pytest.LogCaptureFixture
) -> None:
    machine(5.0, 260.0)
    with caplog.at_level(logging.INFO, "hygroma.train"):
        precision_on(CPU), precision_on(CPU)
    assert [r.message.split(": ", 1)[1] for r in caplog.records] == [
        "float32 (a product takes 5.0 ms in float32, 260.0 ms in bfloat16)"
    ]


def test_a_product_is_timed_for_real_and_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    assert product_ms("cpu", False) > 0
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.requirement("X-01")
def test_what_was_trained_says_in_what_beside_it_and_a_rerun_elsewhere_adds_its_own(
    machine: Callable[[float, float], list[bool]], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "fold0.pt"

    def train(epochs: int) -> None:
        torch.manual_seed(0)
        fit(HygromaViT(TINY), bank(), np.arange(24), Schedule(epochs, batch=6), checkpoint)

    machine(10, 500)
    train(1)
    assert recorded(checkpoint) == [FLOAT32]
    precision._chosen.cache_clear()
    machine(10, 5)
    train(1)  # nothing was left to do
    assert recorded(checkpoint) == [FLOAT32]
    train(2)
    assert recorded(checkpoint) == [FLOAT32, BFLOAT16]
    assert json.loads((tmp_path / "fold0.precision.json").read_text()) == [FLOAT32, BFLOAT16]


def test_what_an_older_version_made_has_no_such_file_and_a_damaged_one_is_none(
    machine: Callable[[float, float], list[bool]], tmp_path: Path
) -> None:
    assert recorded(tmp_path / "fold1.pt") == []
    (tmp_path / "fold1.precision.json").write_text("[")
    assert recorded(tmp_path / "fold1.pt") == []
    machine(10, 500)
    record(tmp_path / "fold1.pt", CPU)
    assert recorded(tmp_path / "fold1.pt") == [FLOAT32]
