"""Score-CAM on models whose answer is known to come from one place; localisation figures by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from edge.errors import InputError
from export.model.vit import HygromaViT, ViTConfig
from export.report.localise import agreement, localisation_row, map_cost, mass_in_words
from export.report.score_cam import score_cam, target_of
from export.training.systems import System, build

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


@pytest.mark.parametrize("kind", ["student", "densenet169"])
def test_every_kind_of_model_has_a_map(kind: str) -> None:
    if kind == "densenet169":
        nets = pytest.importorskip("monai.networks.nets")
        model, side = build(System(kind, "random", 64, None), 0), 2
        sizes = {"init_features": 8, "growth_rate": 4, "block_config": (2, 2, 2, 2)}  # one of 169 layers takes a minute
        model.cnn = nets.DenseNet(spatial_dims=2, in_channels=3, out_channels=1, **sizes)  # type: ignore[attr-defined]
        assert target_of(model).grid is None
    else:
        torch.manual_seed(0)
        model, side = HygromaViT(TINY), 4
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


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.008, 0.046, "is not told from chance (0.025 [0.008, 0.046] against 0.020, n 24)"),
        (0.021, 0.046, "is more than chance gives (0.025 [0.021, 0.046]"),
        (0.001, 0.019, "is less than chance gives"),
        (0.025, 0.025, "has no interval to tell it from chance by"),
    ],
)
def test_a_mass_is_held_against_chance_in_words(low: float, high: float, words: str) -> None:
    mass = {"value": 0.025, "low": low, "high": high}
    assert words in mass_in_words({"method": "Score-CAM", "n": 24, "mass": mass, "mass_chance": 0.02})


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


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ and run/, its cross-validation. Not to be written to."""
    pytest.importorskip("sklearn")
    from fakes.labelled import write_checkpoint, write_images

    from edge.cli import main

    base = tmp_path_factory.mktemp("crossed")
    write_images(base / "data", patients=8)
    write_checkpoint(base / "c.pt")
    assert main([
        "crossval", str(base / "data"), "--system", "usf-mae", "--init", str(base / "c.pt"), "--image", "64",
        "--epochs", "1", "--batch", "8", "--threads", "1", "--out", str(base / "run"), "--json",
    ]) == 0  # fmt: skip
    return base


def test_explain_writes_overlays_of_a_cross_validation(
    crossed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edge.cli import main

    capsys.readouterr()
    assert main(["explain", str(crossed / "run"), "--out", str(tmp_path / "maps"), "--each", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["overlays"]
    assert sorted(r["label"] for r in rows) == ["hygroma"] * 2 + ["normal"] * 2
    for row in rows:
        picture = cv2.imread(row["overlay"])
        assert picture.shape == (384, 768, 3) and 0 <= row["probability"] <= 1
        assert not np.array_equal(picture[:, :384], picture[:, 384:])  # the crop, and the map over it
    assert main(["explain", str(crossed / "data"), "--out", str(tmp_path / "maps")]) == 66
    assert "no finished cross-validation" in capsys.readouterr().err


def test_boxes_give_the_mass_inside_class_by_class(
    crossed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image is 150 x 120 pixels: in the letterboxed square its upper half is the share .4 of everything."""
    from edge.cli import main

    names = [f"hygroma/{i:02d}-0.png" for i in range(3)] + ["normal/00-0.png", "normal/01-0.png"]
    table = tmp_path / "boxes.csv"
    table.write_text("path,x0,y0,x1,y1\n" + "".join(f"{name},0,0,150,60\n" for name in names))
    command = ["explain", str(crossed / "run"), "--out", str(tmp_path / "maps"), "--each", "8", "--data",
               str(crossed / "data"), "--boxes", str(table)]  # fmt: skip
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(row["path"] for row in found["overlays"]) == sorted(names)  # only those with a box
    normal, hygroma = found["localisation"]
    assert (normal["method"], normal["n"]) == ("Score-CAM, normal", 2) and hygroma["n"] == 3
    for row in (normal, hygroma):
        assert row["mass_chance"] == pytest.approx(0.4) and 0 < row["mass"]["low"] < row["mass"]["high"] < 1
    assert main(command) == 0
    assert "Score-CAM, hygroma: the mass inside the box is" in capsys.readouterr().out


def test_a_class_without_boxes_is_explained_without_a_figure(
    crossed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edge.cli import main

    (tmp_path / "boxes.csv").write_text("path;x0;y0;x1;y1\nhygroma/00-0.png;0;0;150;60\nhygroma/01-0.png;0;0;150;60\n")
    capsys.readouterr()
    assert main([
        "explain", str(crossed / "run"), "--out", str(tmp_path / "maps"), "--each", "1", "--data", str(crossed / "data"),
        "--boxes", str(tmp_path / "boxes.csv"), "--json",
    ]) == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert [row["label"] for row in found["overlays"]] == ["normal", "hygroma"]
    assert [row["method"] for row in found["localisation"]] == ["Score-CAM, hygroma"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,x0,y0,x1\n", "boxes.csv: columns path, x0, y0, x1; y1 missing; expected path,x0,y0,x1,y1"),
        ("path,x0,y0,x1,y1\n", "boxes.csv: has no rows"),
        ("path,x0,y0,x1,y1\nhygroma/00-0.pgn,0,0,9,9\n", "line 2: path: found 'hygroma/00-0.pgn', .*mean hygroma/00-0.png"),
        ("path,x0,y0,x1,y1\nhygroma/00-0.png,0,0,151,9\n", "line 2: found the box 0, 0, 151, 9 outside .*, 150 x 120 pixels"),
        ("path,x0,y0,x1,y1\nhygroma/00-0.png,0,-1,9,9\n", "line 2: found the box 0, -1, 9, 9 outside"),
        ("path,x0,y0,x1,y1\nhygroma/00-0.png,0,a,9,9\n", "line 2: y0: found 'a'; expected a number of pixels"),
        ("path,x0,y0,x1,y1\nhygroma/00-0.png,9,0,9,9\n", "line 2: found the box 9, 0, 9, 9; x0 must be less than x1"),
        ("path,x0,y0,x1,y1\n" + "hygroma/00-0.png,0,0,9,9\n" * 2, "line 3: path: found a second box for hygroma/00-0.png"),
    ],
)
def test_wrong_boxes_are_refused_before_any_map(
    crossed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    from export import explain

    monkeypatch.setattr(explain, "score_cam", lambda *_: pytest.fail("a map was computed"))
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        explain.explain(crossed / "run", tmp_path / "maps", 1, "", tmp_path / "boxes.csv")
    assert not (tmp_path / "maps").exists()


@pytest.mark.requirement("V-05")
def test_maps_are_of_the_very_images_that_were_cross_validated(crossed: Path, tmp_path: Path) -> None:
    from edge.errors import ConfigError
    from export.explain import explain

    table = tmp_path / "boxes.csv"
    table.write_text("path,x0,y0,x1,y1\nhygroma/00-0.png,0,0,9,9\n")
    shutil.copytree(crossed / "data", tmp_path / "moved")
    found, located = explain(crossed / "run", tmp_path / "maps", 1, "", table, [tmp_path / "moved"])
    assert len(found) == 2 and len(located) == 1
    shutil.copyfile(crossed / "data/hygroma/01-0.png", tmp_path / "moved/hygroma/00-0.png")
    with pytest.raises(ConfigError, match="data: found 'SHA-256 "):
        explain(crossed / "run", tmp_path / "maps", 1, "", table, [tmp_path / "moved"])
    with pytest.raises(InputError, match="nowhere: no such file; give a folder per class or a table"):
        explain(crossed / "run", tmp_path / "maps", 1, "", table, [tmp_path / "nowhere"])


@pytest.mark.requirement("V-05")
def test_boxes_of_the_data_set_need_no_table_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The upper half of an image of 150 x 120 pixels, rounded up by a pixel, and a table in its place."""
    pytest.importorskip("sklearn")
    from fakes.labelled import write_checkpoint, write_csv, write_images

    from edge.cli import main
    from export.explain import explain

    rows = write_images(tmp_path / "data", patients=8)
    for row in rows:
        row["nt_box"] = "0 0 151 60" if row["path"].startswith("hygroma/0") and row["path"] < "hygroma/03" else ""
    write_csv(tmp_path / "data/t.csv", rows)
    assert main([
        "crossval", str(tmp_path / "data/t.csv"), "--system", "usf-mae", "--init", str(write_checkpoint(tmp_path / "c.pt")),
        "--image", "64", "--epochs", "1", "--batch", "8", "--threads", "1", "--out", str(tmp_path / "run"), "--json",
    ]) == 0  # fmt: skip
    capsys.readouterr()
    assert main(["explain", str(tmp_path / "run"), "--out", str(tmp_path / "maps"), "--each", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    shown = sorted(row["path"] for row in found["overlays"] if row["label"] == "hygroma")
    assert shown == [f"hygroma/0{i}-0.png" for i in range(3)]
    (hygroma,) = found["localisation"]
    assert hygroma["n"] == 3 and hygroma["mass_chance"] == pytest.approx(0.4)
    (tmp_path / "boxes.csv").write_text("path,x0,y0,x1,y1\nhygroma/05-0.png,0,0,150,60\n")
    rows_then, _ = explain(tmp_path / "run", tmp_path / "maps", 8, "", tmp_path / "boxes.csv")
    assert rows_then[-1]["path"] == "hygroma/05-0.png"
