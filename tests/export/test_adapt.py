"""A bundle's heads fitted on a site's own images: `hygroma adapt`. The site is made of phantom frames."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

from calibration import crops, traces
from calibration.bank import Bank
from calibration.dataset import OTHER_PLANE, STANDARD_PLANE, Dataset, LabelledImage
from calibration.open_dataset import open_dataset
from calibration.phantom import render_stills
from calibration.site import UNLABELLED, Site
from calibration.table import name_of
from edge.bundle import Bundle, load_bundle, write_bundle
from edge.bundle.arrays import GoldenVectors, pack_golden
from edge.bundle.manifest import GOLDEN_FILE, MODEL_FILE, OOD_FILE
from edge.bundle.trust import ANYONE, SHIPPED_BUNDLE
from edge.cli import main
from edge.engines.graph_forms import strip_quantisers
from edge.engines.onnxruntime_runner import OnnxRuntimeRunner
from edge.engines.selftest import infer_all, sigmoid
from edge.errors import ConfigError, GateError, InputError
from edge.records import OUTPUT_NAMES, RawOutputs
from export.heads.anchored import STRENGTHS, Anchored, Samples, fit_anchored
from export.heads.features import HYGROMA, PLANE, HeadInputs
from export.heads.fit import Reading
from export.heads.head_graph import hygroma_said, plane_said, with_hygroma, with_plane
from export.int8.ort_graph import run_graph
from export.report.validate import Step
from export.site import adapt as adapting
from export.site import bundle as site_bundle
from export.site.adapt import Settings, adapt
from export.site.heads import Head, fit_head

pytestmark = [pytest.mark.usefixtures("few_draws", "made_before", "graphs_asked_once"), pytest.mark.kernels]

PHANTOMS = 24  # rendered frames beside the site's images
FEW_GOLDEN = 8  # of the shipped bundle's golden images, that stand for all 64
EXAM_S = 1.5  # seconds of a phantom exam: that there are some is what the bundle tells
SETTINGS = Settings("own", "1.0.0", exams=4, phantoms=PHANTOMS)


def samples(n: int, told: float, seed: int = 0) -> Samples:
    """Labels that follow `before` and, by `told`, the first of 20 features."""
    rng = np.random.default_rng(seed)
    before, features = rng.normal(0, 2, n), rng.normal(0, 1, (n, 20))
    odds = 0.5 * before + told * features[:, 0]
    labels = (rng.uniform(size=n) < 1 / (1 + np.exp(-odds))).astype(float)
    return Samples(before, features, 0.05 * rng.normal(0, 1, (n, 20)), labels, np.ones(n), [str(i) for i in range(n)])


def loss(said: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0, said) - labels * said))


def test_a_head_with_nothing_new_to_learn_keeps_its_order() -> None:
    made = samples(120, told=0.0)
    fitted = fit_anchored(made, seed=0)
    assert fitted.strength >= 1
    assert 0.2 < fitted.gain < 0.8  # the labels follow half of what it said
    assert np.corrcoef(fitted(made.before, made.features), made.before)[0, 1] > 0.9


def test_a_head_learns_what_the_features_tell_besides() -> None:
    fitted, unseen = fit_anchored(samples(300, told=3.0), seed=0), samples(2000, told=3.0, seed=1)
    before = loss(0.5 * unseen.before, unseen.labels)
    assert np.isfinite(fitted.strength) and fitted.strength < 1
    assert loss(fitted(unseen.before, unseen.features), unseen.labels) < 0.75 * before


def test_what_rounding_moves_is_not_leant_on() -> None:
    made = samples(300, told=3.0)
    twin = np.hstack([made.features, made.features[:, :1]])
    noisy = np.hstack([made.rounding, 2 * np.random.default_rng(4).normal(0, 1, (300, 1))])
    fitted = fit_anchored(replace(made, features=twin, rounding=noisy), seed=0)
    assert abs(fitted.reading.weight[-1]) < 0.2 * fitted.reading.weight[0]


def test_pictures_that_are_told_apart_without_an_error_give_a_finite_head() -> None:
    made = samples(80, told=0.0)
    fitted = fit_anchored(replace(made, labels=(made.before > 0).astype(float)), seed=0)
    assert 1 < fitted.gain < 100
    assert fit_anchored(replace(made, groups=["one"] * 80), seed=0).strength == STRENGTHS[0]


@pytest.fixture(scope="module", autouse=True)
def shown_once() -> Iterator[None]:
    """What the same graphs show of the same pictures is asked for once: half of the time of every `adapt` here."""
    known: dict[tuple[Any, ...], tuple[np.ndarray, np.ndarray]] = {}
    begin, ask = HeadInputs.__init__, HeadInputs.__call__

    def begins(self: Any, *graphs: Any) -> None:
        begin(self, *graphs)
        self.graphs = tuple(g if isinstance(g, int) else sha256(g.SerializeToString()).digest() for g in graphs)

    def asked(self: Any, head: str, crops: Any) -> tuple[np.ndarray, np.ndarray]:
        key = (self.graphs, head, len(crops), sha256(b"".join(crop.tobytes() for crop in crops)).digest())
        if key not in known:
            known[key] = ask(self, head, crops)
        features, moved = known[key]
        return features.copy(), moved.copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HeadInputs, "__init__", begins)
        patch.setattr(HeadInputs, "__call__", asked)
        yield


@pytest.fixture(scope="module", autouse=True)
def read_once() -> Iterator[None]:
    """So is the screen of each of the site's stills."""
    known: dict[bytes, Any] = {}
    read = crops.read_still

    def reading(picture: np.ndarray, spec: Any) -> Any:
        key = sha256(repr(spec).encode() + picture.tobytes()).digest()
        if key not in known:
            known[key] = read(picture, spec)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crops, "read_still", reading)
        yield


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped bundle, of whose golden images FEW_GOLDEN stand for all."""
    shipped = load_bundle(SHIPPED_BUNDLE)
    golden = shipped.golden()
    over = np.arange(len(golden.inputs)) % FEW_GOLDEN

    def few(said: RawOutputs) -> RawOutputs:
        return RawOutputs(*(getattr(said, name)[over] for name in OUTPUT_NAMES))

    vectors = GoldenVectors(golden.inputs[over], few(golden.fp32), few(golden.qdq))
    path = tmp_path_factory.mktemp("start") / "bundle"
    write_bundle(path, replace(shipped.manifest, files={}), {**shipped.files, GOLDEN_FILE: pack_golden(vectors)})
    return load_bundle(path, ANYONE)


@pytest.fixture(scope="module", autouse=True)
def shortest_exams() -> Iterator[None]:
    whole = traces.sample_exam
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traces, "sample_exam", lambda seed, truth: whole(seed, truth, seconds=EXAM_S))
        yield


def test_heads_in_the_graph_say_what_they_say_in_numpy_and_nothing_else_moves(start: Bundle) -> None:
    graph, crops = onnx.load_from_string(start.model), start.golden().inputs[:6]
    unshifted = onnx.load_from_string(strip_quantisers(start.model))
    shown = HeadInputs(unshifted, graph)
    (plane, plane_moved), (hygroma, hygroma_moved) = (shown(head, list(crops[:, 0])) for head in (PLANE, HYGROMA))
    rng = np.random.default_rng(0)
    new = [Reading(rng.normal(0, 0.02, x.shape[1]), b) for x, b in ((plane, 0.3), (hygroma[:, :-384], -0.2))]
    changed = with_hygroma(with_plane(graph, 0.5, new[0]), 2.0, new[1])
    was, now = run_graph(graph, crops), run_graph(changed, crops)
    np.testing.assert_allclose(was.plane, plane_said(graph, plane + plane_moved), atol=2e-3)
    np.testing.assert_allclose(was.hygroma, hygroma_said(graph, hygroma + hygroma_moved), atol=2e-2)
    np.testing.assert_allclose(now.plane, 0.5 * was.plane + new[0](plane + plane_moved), atol=1e-2)
    np.testing.assert_allclose(now.hygroma, 2 * was.hygroma + new[1]((hygroma + hygroma_moved)[:, :-384]), atol=5e-2)
    np.testing.assert_array_equal(now.embedding, was.embedding)
    np.testing.assert_array_equal(now.nuchal_map, was.nuchal_map)
    for _ in range(40):  # two units a time
        try:
            changed = with_hygroma(changed, 1.0, new[1])
        except InputError as error:
            assert "hidden units are idle" in str(error)
            return
    raise AssertionError("the head never filled")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA/normal, DATA/hygroma, and beside it two tables: with planes and without. File names that no bundle may hold."""
    root = tmp_path_factory.mktemp("site")
    rows = []
    for truth, kind, count in (("normal", "normal", 10), ("hygroma", "hygroma", 10), ("other", "normal", 6)):
        for n, frame in enumerate(render_stills(seed_of(truth), count, truth, standard_share=1.0, per_patient=1)):
            path = root / "data" / kind / f"mrs-smith-{truth}-{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), frame.image)
            plane = "other" if truth == "other" else "standard"
            rows.append([path.relative_to(root).as_posix(), int(kind == "hygroma"), f"{truth}{n}", plane])
    for name, with_planes in (("planes.csv", True), ("plain.csv", False)):
        with (root / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "hygroma", "patient", "plane"])
            writer.writerows(row if with_planes else [*row[:3], ""] for row in rows)
    return root


def seed_of(truth: str) -> int:
    return {"normal": 91_000, "hygroma": 92_000, "other": 93_000}[truth]


@pytest.fixture
def no_exams(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decision as it was, without the minute that exams take."""
    monkeypatch.setattr(site_bundle, "decide_on_exams", lambda draft, base, *rest: (base, []))


def test_a_site_without_planes_keeps_the_plane_head_and_the_card_says_so(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], start: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command, exams and all, beside few phantoms; then the device scores with what it made."""
    bank = adapting.phantom_bank
    monkeypatch.setattr(adapting, "phantom_bank", lambda total, progress: bank(PHANTOMS, progress))
    words = [str(site / "plain.csv"), "--out", str(tmp_path / "out")]
    words += ["--exams", "4", "--threads", "1", "--bundle", str(start.path), "--allow-unsigned"]
    assert main(["adapt", *words, "--name", "own", "--accept-failing-gate", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "no plane labels" in told["plane head"] and told["images"] + sum(told["left out"].values()) == 26
    made = load_bundle(told["bundle"], ANYONE)
    manifest, old = made.manifest, start.manifest
    assert (manifest.model.id, manifest.model.version) == ("own", "1.0.0")
    assert manifest.operating_point.plane_threshold == old.operating_point.plane_threshold
    assert manifest.ood == old.ood and made.files[OOD_FILE] == start.files[OOD_FILE]
    card = made.files["MODEL_CARD.md"].decode()
    assert "frozen: the site's images carry no plane labels" in card
    assert "No image of a real cystic hygroma was used" not in card
    names = [table.name for table in manifest.evidence]
    assert "site's hygromas" in names and "phantom exams" in names and "plane, folds" in names
    assert "hygroma, folds" not in names  # of a head that this bundle no longer holds
    before, after = (run_graph(onnx.load_from_string(b.model), start.golden().inputs[:8]) for b in (start, made))
    np.testing.assert_array_equal(before.plane, after.plane)
    np.testing.assert_array_equal(before.embedding, after.embedding)
    assert not np.allclose(before.hygroma, after.hygroma)
    for content in made.contents.values():
        assert b"mrs-smith" not in content
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert {row["label"] for row in rows} == {"normal", "hygroma"} and len(rows) == told["images"]
    html = (tmp_path / "out" / "report" / "validation.html").read_text()
    assert "as it was" in html and "frozen" in html and "mrs-smith" not in html
    assert {row["metric"] for row in told["exams"]} >= {"exam sensitivity", "exam specificity"}
    picture = str(next((site / "data" / "hygroma").glob("*.png")))
    assert main(["score", picture, "--bundle", told["bundle"], "--allow-unsigned", "--json"]) == 0
    assert 0 <= json.loads(capsys.readouterr().out.splitlines()[0])["hygroma"] <= 1


def test_planes_that_are_labelled_fit_the_plane_head_too(site: Path, tmp_path: Path, start: Bundle, no_exams: None) -> None:
    data = open_dataset(site / "planes.csv")
    found = adapt(start, data, tmp_path / "out", SETTINGS, accept_failing_gate=True)
    made = load_bundle(found["bundle"], ANYONE)
    assert found["plane head"] == "fitted on the site's planes"
    by_name = {part["name"]: part for part in found["sets"]}
    hygroma, plane = by_name["site's hygromas"], by_name["site's planes"]
    assert plane["n"] > hygroma["n"]  # other planes tell nothing of a hygroma
    assert hygroma["positives"] < hygroma["n"]
    names = [table.name for table in made.manifest.evidence]
    assert "plane, folds" not in names and "other anatomy" not in names
    golden, was = made.golden(), start.golden()
    np.testing.assert_array_equal(golden.inputs, was.inputs)
    assert not np.allclose(golden.qdq.plane, was.qdq.plane)
    np.testing.assert_allclose(golden.qdq.hygroma, run_graph(onnx.load_from_string(made.model), golden.inputs).hygroma)
    report = json.loads((tmp_path / "out" / "report" / "validation.json").read_text())
    html = (tmp_path / "out" / "report" / "validation.html").read_text()
    for text in (made.files["MODEL_CARD.md"].decode(), html):  # what is true of the public images alone
        assert "without rounding" in text and "PyTorch FP32" not in text
        assert "simulated, and said to be" not in text and "however they are cut" not in text
    assert report["sets"][0]["steps"]["INT8"]["all folds"]["ROC-AUC"]["n"] == hygroma["n"]
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert {row["id"] for row in rows} >= set(made.manifest.gate.flipped) and rows[0]["id"].startswith("site:")
    assert len(rows) == hygroma["n"] and {row["plane"] for row in rows} == {"standard"}


def test_the_shipped_head_is_fitted_on_all_and_the_figures_are_not(
    site: Path, tmp_path: Path, start: Bundle, no_exams: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image whose label is turned round moves what the shipped head says, and never the figure of its own fold's fit."""
    data = open_dataset(site / "plain.csv")
    kept: dict[str, Any] = {}
    real = adapting.fit_head

    def watched(name: str, *rest: Any) -> Any:
        kept[name] = real(name, *rest)
        return kept[name]

    monkeypatch.setattr(adapting, "fit_head", watched)
    adapt(start, data, tmp_path / "a", SETTINGS, accept_failing_gate=True)
    one = kept[HYGROMA]
    turned = replace(data, images=[replace(i, hygroma=1 - i.hygroma) if n == 0 else i for n, i in enumerate(data.images)])
    folds = adapting.read_site(data, start.manifest.preprocessing.size, 0).folds
    monkeypatch.setattr("calibration.site.assign_folds", lambda *rest: folds)
    adapt(start, turned, tmp_path / "b", SETTINGS, accept_failing_gate=True)
    other = kept[HYGROMA]
    same = folds[one.keep] == folds[0]
    np.testing.assert_array_equal(one.adapted[same], other.adapted[same])  # its own fold was fitted without it
    assert not np.array_equal(one.adapted[~same], other.adapted[~same])
    shipped, moved = ([head.fitted.gain, head.fitted.reading.bias, *head.fitted.reading.weight] for head in (one, other))
    assert not np.array_equal(shipped, moved)


HELD = 3  # of FOLDS folds, the one that the next tests hold out


def shift_for(n: int = 40, seed: int = 0) -> tuple[Site, Any]:
    """A site of n images, every fifth without a plane label, and a bundle that shows a head 6 features and the picture's mean."""
    rng = np.random.default_rng(seed)
    labels, planes = np.arange(n) // 4 % 2, np.arange(n) // 8 % 2
    planes[::5] = UNLABELLED
    features = rng.normal(0, 1, (n, 8)) + labels[:, None]
    manifest = SimpleNamespace(
        preprocessing=None,
        heads=SimpleNamespace(embedding=2),
        ood=SimpleNamespace(threshold=1.0),
        operating_point=SimpleNamespace(plane_threshold=0.5),
    )
    near = SimpleNamespace(distance=lambda embedding: np.zeros(len(embedding)))
    opened = SimpleNamespace(
        bundle=SimpleNamespace(manifest=manifest, ood=lambda: near),
        shown=lambda head, crops: (features, 0.01 * features[::-1]),
        said=lambda head, shown: shown[:, 0],
    )
    data = Dataset(Path("p.csv"), Path("."), ("normal", "hygroma"), [], patients_known=True)
    groups = [f"patient {i // 2}" for i in range(n)]
    folds = np.arange(n) % 2 * 2 + np.arange(n) // 2 % 2
    return Site(data, labels, planes, groups, folds, np.zeros((n, 2, 2), np.uint8), {}), opened


def test_an_image_without_a_plane_label_is_told_by_a_head_that_its_fold_was_held_out_of() -> None:
    site, opened = shift_for()
    own = site.folds == HELD
    turned = replace(site, planes=np.where(own & (site.planes != UNLABELLED), 1 - site.planes, site.planes))
    one, other = (fit_head(PLANE, opened, s, Bank(np.zeros((0, 2, 2), np.uint8), []), 0) for s in (site, turned))
    assert UNLABELLED in site.planes[own]
    np.testing.assert_array_equal(one.every[own], other.every[own])
    assert (one.every[~own] != other.every[~own]).all()
    np.testing.assert_array_equal(one.every[one.keep], one.int8)


def test_assessable_is_judged_by_the_new_plane_head_at_the_other_folds_threshold() -> None:
    site, opened = shift_for()
    keep = np.flatnonzero(site.planes != UNLABELLED)
    said = np.where(site.folds == HELD, 2.0, 1.0)  # log-odds, all beyond the old head's threshold
    nothing = Anchored(1.0, Reading(np.zeros(8), 0.0), 1.0)
    plane = Head(keep, site.planes[keep], said[keep], said[keep], said[keep], said, nothing, 0.0)
    limits = np.where(site.folds[keep] == HELD, sigmoid(1.5), sigmoid(1.2))
    judged = SimpleNamespace(steps=[Step("INT8", said[keep], limits)])
    np.testing.assert_array_equal(adapting._assessable(opened, site, plane, judged), site.folds == HELD)  # type: ignore[arg-type]


def test_what_the_card_says_of_a_site_counts_whom_the_head_was_fitted_on(start: Bundle) -> None:
    site, _ = shift_for()
    images = [LabelledImage(Path(), str(i), hygroma=0, site="A" if i < 20 else "B") for i in range(40)]
    site, fitted = replace(site, data=replace(site.data, images=images)), Anchored(1.0, Reading(np.zeros(1), 0.0), 1.0)
    head = Head(np.arange(30), site.labels[:30], *[np.zeros(30)] * 4, fitted, 0.0)
    kept, both = (site_bundle.site_provenance(start, site, head, plane, "why") for plane in (None, head))
    assert any("30 images of 2 sites" in text and "15 patients" in text for text in kept.limits)
    table = "planes, however they are cut"  # an adapted plane head is not what it judges
    assert any(table in text for text in kept.limits) and not any(table in text for text in both.limits)


def test_a_file_name_that_is_no_utf_8_is_written_as_data_md_says(tmp_path: Path) -> None:
    site, _ = shift_for()
    path = Path(os.fsdecode(b"normal/M\xfcller.png"))
    site = replace(site, data=replace(site.data, images=[LabelledImage(path, name_of(path, Path()), hygroma=0)] * 40))
    judged = SimpleNamespace(ids=["site:0000"], steps=[Step("INT8", np.zeros(1), np.full(1, 0.5))] * 3)
    one = SimpleNamespace(keep=np.zeros(1, int))
    adapting._write_predictions(tmp_path / "p.csv", site, one, judged, np.ones(40, bool))  # type: ignore[arg-type]
    assert b"\r\nsite:0000,normal/M<fc>ller.png,normal," in (tmp_path / "p.csv").read_bytes()


def test_classes_the_wrong_way_round_are_refused(
    site: Path, tmp_path: Path, start: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_dataset(site / "data", positive="normal")
    labels = np.arange(40) % 2
    swapped = Head(np.arange(40), labels, np.linspace(-1, 1, 40) - 2 * labels, *[np.zeros(40)] * 3, None, 0.0)  # type: ignore[arg-type]
    monkeypatch.setattr(adapting, "fit_head", lambda *rest: swapped)
    few = adapting.phantom_bank
    monkeypatch.setattr(adapting, "phantom_bank", lambda total, progress: few(4, progress))
    with pytest.raises(InputError, match="ranks 'hygroma' above 'normal'.*--positive"):
        adapt(start, data, tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out" / "report").exists()


def test_a_class_that_shows_other_planes_alone_is_refused_and_told_why(site: Path, start: Bundle) -> None:
    data = open_dataset(site / "plain.csv")
    images = [replace(image, plane=OTHER_PLANE if image.label else STANDARD_PLANE) for image in data.images]
    with pytest.raises(InputError, match="not labelled as other planes.*0 patients with images of 'hygroma'"):
        adapting.read_site(replace(data, images=images), start.manifest.preprocessing.size, 0)


def test_a_gate_that_fails_writes_no_bundle_and_leaves_the_report(
    site: Path, tmp_path: Path, start: Bundle, no_exams: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, found = open_dataset(site / "plain.csv"), adapting.gate
    monkeypatch.setattr(
        adapting, "gate", lambda *given: replace(found(*given), passed=False, reasons=("made to fail",))
    )
    with pytest.raises(GateError, match="made to fail.*--accept-failing-gate"):
        adapt(start, data, tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out" / "bundle").exists() and (tmp_path / "out" / "report" / "validation.html").is_file()
    monkeypatch.setattr(adapting, "phantom_bank", lambda *rest: pytest.fail("they were rendered for the first call"))
    accepted = adapt(start, data, tmp_path / "out", SETTINGS, accept_failing_gate=True)
    assert load_bundle(accepted["bundle"], ANYONE).manifest.gate.accepted_failing
    with pytest.raises(ConfigError, match="there already"):
        adapt(start, data, tmp_path / "out", SETTINGS)


def test_what_does_not_fit_is_said_before_anything_is_rendered(site: Path, tmp_path: Path, start: Bundle) -> None:
    data = open_dataset(site / "plain.csv")
    (tmp_path / "holds" / "draft").mkdir(parents=True)
    for settings, out, words in (
        (SETTINGS, site, "holds the data; give another"),
        (SETTINGS, tmp_path / "holds", r"holds something else \(draft\)"),
        (replace(SETTINGS, name="Own Model"), tmp_path / "out", "Own Model.*lower-case"),
        (replace(SETTINGS, version="one"), tmp_path / "out", "semantic version"),
        (replace(SETTINGS, exams=3), tmp_path / "out", "--exams: found 3"),
        (replace(SETTINGS, seed=-1), tmp_path / "out", "--seed: found -1"),
        (replace(SETTINGS, threads=0), tmp_path / "out", "--threads: found 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            adapt(start, data, out, settings)
    with pytest.raises(ConfigError, match="inside the data folder"):
        adapt(start, open_dataset(site / "data"), site / "data" / "out", SETTINGS)


def test_an_adapted_bundle_is_no_start(site: Path, tmp_path: Path, start: Bundle) -> None:
    """Its head may have seen the very images that would be held out."""
    old = start.manifest.provenance
    seen = replace(old, data=(*old.data, replace(old.data[0], name=site_bundle.SITE_IMAGES)))
    adapted = replace(start, manifest=replace(start.manifest, provenance=seen))
    with pytest.raises(ConfigError, match="adapted already.*start from the bundle that it was made from"):
        adapt(adapted, open_dataset(site / "plain.csv"), tmp_path / "out", SETTINGS)


def test_a_folder_that_cannot_be_written_or_a_head_without_room_is_said_before_an_image_is_read(
    site: Path, tmp_path: Path, start: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_dataset(site / "plain.csv")
    monkeypatch.setattr(adapting, "read_site", lambda *rest: pytest.fail("images were read"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/out: cannot be written"):
        adapt(start, data, tmp_path / "file" / "out", SETTINGS)
    full, reading = onnx.load_from_string(start.model), Reading(np.full(4, 0.1), 0.0)
    with pytest.raises(InputError, match="hidden units are idle"):
        while True:
            full = with_hygroma(full, 1.0, reading)
    files = {**start.files, MODEL_FILE: full.SerializeToString()}
    with pytest.raises(InputError, match="hidden units are idle"):
        adapt(replace(start, files=files), data, tmp_path / "out", SETTINGS)


def test_images_that_the_device_would_not_score_are_counted_or_refused(tmp_path: Path, start: Bundle) -> None:
    for kind in ("hygroma", "normal"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for n in range(4):
            cv2.imwrite(str(tmp_path / "data" / kind / f"{n}.png"), np.full((200, 260), 10 + n, np.uint8))
    with pytest.raises(InputError, match="none of 8 images would be scored.*NO_SIGNAL"):
        adapt(start, open_dataset(tmp_path / "data"), tmp_path / "out", SETTINGS)


def test_few_planes_of_one_sort_leave_the_plane_head_alone(site: Path, tmp_path: Path, start: Bundle, no_exams: None) -> None:
    data = open_dataset(site / "planes.csv")
    images = [image for image in data.images if image.plane == STANDARD_PLANE or image.name.endswith("other-0.png")]
    found = adapt(start, replace(data, images=images), tmp_path / "out", SETTINGS, accept_failing_gate=True)
    assert "1 patients in 1 folds are labelled 'other', 4 in 4 are needed" in found["plane head"]
    made = load_bundle(found["bundle"], ANYONE)
    assert any("frozen" in text for text in made.manifest.provenance.limits)
    assert {MODEL_FILE, GOLDEN_FILE} <= set(made.files)
    with OnnxRuntimeRunner(start.model) as runner:  # on this processor: another rounds otherwise, by .008 (AVX2 and AVX512)
        plane = infer_all(runner, start.golden().inputs).plane
    assert sigmoid(made.golden().qdq.plane) == pytest.approx(sigmoid(plane))
