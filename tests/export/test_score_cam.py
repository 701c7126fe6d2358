"""Score-CAM on models whose answer is known to come from one place; localisation figures by hand."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from edge.errors import InputError
from export.localise import agreement, localisation_row, map_cost
from export.score_cam import score_cam, target_of
from export.systems import System, ViTClassifier, build
from export.vit import HygromaViT, ViTConfig

TINY = ViTConfig(image=64, patch=16, width=64, depth=2, heads=1, layer_scale=False)


class Corner(torch.nn.Module):
    """Two channels, each half of the picture's brightness; the answer is the left half's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.avg_pool2d(x.mean(1, keepdim=True), 16)
        left, right = small.clone(), small.clone()
        left[..., 2:], right[..., :2] = small.min(), small.min()
        return torch.cat([left, right], 1)


class LeftOnly(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = Corner()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 20 * self.features(x)[:, 0].mean((1, 2)).unsqueeze(1)


def test_the_map_lies_where_the_answer_comes_from() -> None:
    pytest.importorskip("monai")
    model = build(System("densenet169", "random", 64, None), 0)
    model.cnn = LeftOnly()  # type: ignore[attr-defined]
    model.scale = torch.nn.Parameter(torch.ones(1))  # a model has parameters
    crop = np.full((64, 64), 20, np.uint8)
    crop[20:44, 4:28] = crop[20:44, 36:60] = 220
    found = score_cam(model, crop)
    assert found.shape == (4, 4) and found.max() == pytest.approx(1)
    assert found[:, :2].sum() > 0.9 * found.sum()


@pytest.mark.parametrize("kind", ["student", "classifier", "densenet169"])
def test_every_kind_of_model_has_a_map(kind: str) -> None:
    if kind == "densenet169":
        nets = pytest.importorskip("monai.networks.nets")
        model, side = build(System(kind, "random", 64, None), 0), 2
        sizes = {"init_features": 8, "growth_rate": 4, "block_config": (2, 2, 2, 2)}  # one of 169 layers takes a minute
        model.cnn = nets.DenseNet(spatial_dims=2, in_channels=3, out_channels=1, **sizes)  # type: ignore[attr-defined]
        assert target_of(model).grid is None
    else:
        torch.manual_seed(0)
        model, side = (HygromaViT(TINY) if kind == "student" else ViTClassifier(TINY)), 4
    crop = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    found = score_cam(model, crop)
    assert found.shape == (side, side) and found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1 and np.array_equal(found, score_cam(model, crop))


def test_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="found a Linear"):
        score_cam(torch.nn.Linear(1, 1), np.zeros((64, 64), np.uint8))


BOX = (0.25, 0.25, 0.75, 0.5)  # of a 4 x 4 grid: two cells of the second row


def test_localisation_by_hand() -> None:
    maps = np.zeros((3, 4, 4))
    maps[0, 1, 1] = 1  # all inside
    maps[1] = 1  # everywhere: what chance gets, and a peak in the corner
    maps[2, 3, 3], maps[2, 1, 2] = 3, 1  # a quarter inside, its peak outside
    row = localisation_row("by hand", maps, [BOX] * 3, ["a", "b", "c"])
    assert row["pointing"]["value"] == pytest.approx(1 / 3) and row["pointing_chance"] == pytest.approx(2 / 16)
    assert row["mass"]["value"] == pytest.approx((1 + 1 / 8 + 1 / 4) / 3) and row["mass_chance"] == pytest.approx(1 / 8)
    assert row["mass"]["low"] <= row["mass"]["value"] <= row["mass"]["high"] and row["n"] == 3
    nothing = localisation_row("zeros", np.zeros((2, 4, 4)), [BOX] * 2, ["a", "b"])
    assert nothing["pointing"]["value"] == nothing["mass"]["value"] == 0


def test_cells_on_the_edge_count_by_their_part() -> None:
    maps = np.zeros((1, 4, 4))
    maps[0, 0, 0] = 1
    row = localisation_row("edge", maps, [(0.0, 0.0, 0.125, 0.125)], ["a"])
    assert row["mass"]["value"] == pytest.approx(0.25) and row["pointing"]["value"] == 1


def test_maps_that_cannot_be_judged() -> None:
    with pytest.raises(InputError, match="found 1 maps, 2 boxes"):
        localisation_row("x", np.zeros((1, 4, 4)), [BOX] * 2, ["a"])
    with pytest.raises(InputError, match="0 or more"):
        localisation_row("x", -np.ones((1, 4, 4)), [BOX], ["a"])
    with pytest.raises(InputError, match="expected the same"):
        agreement(np.zeros((1, 4, 4)), np.zeros((1, 3, 3)))


def test_agreement_of_two_forms() -> None:
    maps = np.random.default_rng(0).random((5, 4, 4))
    same = agreement(maps, maps)
    assert same["same_peak"]["value"] == 1 and same["max_change"] == 0 and same["median_rho"] == pytest.approx(1)
    moved = maps.copy()
    moved[0] = 1 - moved[0]
    assert agreement(maps, moved)["same_peak"]["value"] == pytest.approx(4 / 5)
    json.dumps(agreement(np.zeros((1, 4, 4)), np.zeros((1, 4, 4))), allow_nan=False)


def test_the_map_costs_next_to_nothing() -> None:
    assert map_cost(384, 12, 5)["added"] == 144 * 384 and map_cost(384, 12, 5)["share"] < 1e-4


def test_explain_writes_overlays_of_a_cross_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    from fakes.labelled import write_checkpoint, write_images

    from edge.cli import main

    write_images(tmp_path / "data", patients=8)
    write_checkpoint(tmp_path / "c.pt")
    assert main([
        "crossval", str(tmp_path / "data"), "--system", "usf-mae", "--init", str(tmp_path / "c.pt"), "--image", "64",
        "--epochs", "1", "--batch", "8", "--threads", "1", "--out", str(tmp_path / "run"), "--json",
    ]) == 0  # fmt: skip
    capsys.readouterr()
    assert main(["explain", str(tmp_path / "run"), "--out", str(tmp_path / "maps"), "--each", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sorted(r["label"] for r in rows) == ["hygroma"] * 2 + ["normal"] * 2
    for row in rows:
        picture = cv2.imread(row["overlay"])
        assert picture.shape == (384, 768, 3) and 0 <= row["probability"] <= 1
        assert not np.array_equal(picture[:, :384], picture[:, 384:])  # the crop, and the map over it
    assert main(["explain", str(tmp_path / "data"), "--out", str(tmp_path / "maps")]) == 66
    assert "no finished cross-validation" in capsys.readouterr().err
