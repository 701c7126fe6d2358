"""Students of other sizes than the recipe's: how they start, what the ladder leaves, what it takes up again and refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("sklearn")

from test_pipeline import inodes, tiny

from benchmarks import ladder as costs
from edge.cli import main
from edge.engines.onnxruntime_runner import OnnxRuntimeRunner
from edge.errors import ConfigError, InputError
from export.int8.ort_graph import optimised_graph
from export.ladder import climb, graph_of, graphs, link, macs, rung_jobs, shapes, untrained
from export.model.vit import HygromaViT, ViTConfig, normalise
from export.model.weights import at_image, student_from_teacher
from export.recipe import Ladder, Recipe, Rung, StudentRecipe, load_ladder, load_recipe, shipped_ladder
from export.training.train import distillation_loss, make_batch, token_distance

pytestmark = pytest.mark.usefixtures("few_draws", "few_ranges", "graphs_asked_once", "made_before")

WIDE = ViTConfig(image=48, width=64, depth=3, heads=4, tap=1)
THIN = dataclasses.replace(WIDE, image=32, width=32, depth=2, heads=2)
RUNG = Rung("thin", StudentRecipe([0, 1], image=32, width=32, heads=1, epochs=1, frozen_blocks=0))


def ladder_recipe(base: Path) -> Recipe:
    return tiny(base, folds=[0, 1])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    """A folder with data and a `work` in which a ladder of two rungs has been climbed, from what its own student has left."""
    base = tmp_path_factory.mktemp("ladder")
    shutil.copytree(finished, base, copy_function=os.link, dirs_exist_ok=True)
    climb(ladder_recipe(base), Ladder([RUNG]))
    return base


def test_a_row_a_rung_with_everything_it_is_judged_by(finished: Path) -> None:
    table = json.loads((finished / "work/ladder/ladder.json").read_text())
    own, thin = table["rungs"]
    assert (own["name"], own["own"], thin["name"], thin["own"]) == ("tiny", True, "thin", False)
    assert table["unfinished"] == []
    assert thin["architecture"] == {"image": 32, "width": 32, "depth": 2, "heads": 1, "patch": 16}
    assert thin["parameters"] < own["parameters"] / 2 and thin["gmacs"] < own["gmacs"] / 3
    for row in table["rungs"]:
        assert {"lesions", "planes", "thickness", "thickness, cleaned"} <= set(row["evidence"])
        assert (
            row["evidence"]["lesions"]["n"]
            == own["evidence"]["lesions"]["n"]
            > row["evidence"]["lesions"]["positives"]
            > 0
        )
        assert row["teacher"] == own["teacher"]  # one teacher, at its own input size, on the same images
        assert -1 <= row["agreement"]["hygroma"]["r"] <= 1 and row["agreement"]["plane"]["rms"] > 0
        assert row["conversion"]["gate"]["n"] > 0
    for name, path in graphs(ladder_recipe(finished), Ladder([RUNG]), finished / "unused").items():
        with OnnxRuntimeRunner(path) as runner:
            assert runner.input_size == {"tiny": 48, "thin": 32}[name]


def test_the_recipes_own_rung_is_its_own_student_and_the_teacher_is_shared(finished: Path) -> None:
    work = finished / "work"
    assert (work / "ladder/tiny/student").resolve() == work / "student"
    assert (work / "ladder/thin/teacher").resolve() == work / "teacher"
    assert not (work / "ladder/thin/student").is_symlink() and (work / "ladder/thin/student/fold0.pt").is_file()


def test_a_rerun_makes_only_what_is_missing(finished: Path) -> None:
    recipe, ladder = ladder_recipe(finished), Ladder([RUNG])
    before = inodes(finished / "work")
    climb(recipe, ladder)
    changed = {n for n, i in inodes(finished / "work").items() if before.get(n) != i}
    assert changed <= {"ladder/ladder.json"}
    (finished / "work/ladder/thin/rung/fold0.json").unlink()
    climb(recipe, ladder, only=["thin"])
    changed = {n for n, i in inodes(finished / "work").items() if before.get(n) != i}
    assert "ladder/thin/rung/fold0.json" in changed and not any("student/" in n or "ladder/tiny" in n for n in changed)


def test_a_rung_of_other_settings_is_refused_and_an_unknown_one_named(finished: Path) -> None:
    changed = dataclasses.replace(RUNG, student=dataclasses.replace(RUNG.student, epochs=2))
    with pytest.raises(ConfigError, match="student.epochs: found 1, the recipe says 2"):
        climb(ladder_recipe(finished), Ladder([changed]))
    with pytest.raises(ConfigError, match="no rung 'thick'; there are tiny, thin"):
        climb(ladder_recipe(finished), Ladder([RUNG]), only=["thick"])


def test_a_rung_that_was_the_recipes_own_student_lets_go_of_it(finished: Path, tmp_path: Path) -> None:
    job = rung_jobs(tiny(finished, work=str(tmp_path / "work")), Ladder([RUNG]))[0]
    link(job)
    student = Path(job.recipe.work) / "student"
    assert student.is_symlink()
    link(dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, student=RUNG.student)))
    assert not student.is_symlink()


def test_latencies_are_measured_by_themselves_and_enter_the_page(finished: Path, tmp_path: Path) -> None:
    table = json.loads((finished / "work/ladder/ladder.json").read_text())
    page = costs.write_page(table, tmp_path).read_text()
    assert "not measured yet" in page and "GMACs" in (tmp_path / costs.PLOT).read_text()
    result = costs.measure(graphs(ladder_recipe(finished), Ladder([RUNG]), tmp_path), tmp_path, rounds=3, calls=2)
    assert {rung["weights"] for rung in result["rungs"].values()} == {costs.TRAINED}
    assert result["rungs"]["tiny"]["against_first"] == [1.0, 1.0, 1.0]
    assert {r["calls"] for r in result["rungs"].values()} == {6}
    page = costs.write_page(table, tmp_path).read_text()
    rows = [
        line.split(" | ") for line in page.splitlines() if line.startswith("| **tiny**") or line.startswith("| thin")
    ]
    assert [float(row[5].split()[0]) for row in rows] == [
        pytest.approx(result["rungs"][name]["median_ms"], abs=0.006) for name in ("tiny", "thin")
    ]
    plot = (tmp_path / costs.PLOT).read_text()
    assert "INT8 latency" in plot and len(ElementTree.fromstring(plot).findall(".//{*}circle")) == 4


def test_the_command_measures_without_training(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"data: {finished}/data\nwork: {finished}/work\nname: tiny\nversion: 0.0.1\nimage: 48\nfolds: [0, 1]\ntap: 1\n"
        f"teacher: {{init: {finished}/init.pt, width: 64, depth: 2, heads: 2, frozen_blocks: 1}}\n"
        "student: {blocks: [0, 1]}\n"
    )
    rungs = tmp_path / "l.yaml"
    rungs.write_text("rungs: [{name: thin, student: {blocks: [0, 1], image: 32, width: 32, heads: 1}}]\n")
    assert main(["ladder", str(recipe), "--rungs", str(rungs), "--latency-only", "--json"]) == 0
    assert [r["name"] for r in json.loads(capsys.readouterr().out)["rungs"]] == ["tiny", "thin"]
    (finished / "work/ladder/latency.json").unlink()


def test_latencies_need_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither data nor a teacher is there."""
    (tmp_path / "r.yaml").write_text(
        "data: nowhere\nwork: work\nname: tiny\nversion: 0.0.1\nimage: 48\ntap: 1\n"
        "teacher: {init: nothing.pt, width: 64, depth: 2, heads: 2, frozen_blocks: 0}\n"
        "student: {blocks: [0, 1], frozen_blocks: 0}\n"
    )
    thin = "{blocks: [0, 1], image: 32, width: 32, heads: 1, frozen_blocks: 0}"
    (tmp_path / "l.yaml").write_text(f"rungs: [{{name: thin, student: {thin}}}]\n")
    command = ["ladder", str(tmp_path / "r.yaml"), "--rungs", str(tmp_path / "l.yaml"), "--latency-only"]
    assert main(command) == 0
    page = capsys.readouterr().out
    rows = {line.split(" | ")[0]: line.split(" | ") for line in page.splitlines() if line.startswith("| ")}
    assert rows["| **tiny**"][-1] == rows["| thin"][-1] == "random, of that shape |"
    assert rows["| thin"][1:3] == ["32", "32 x 2"] and float(rows["| thin"][5].split()[0]) > 0
    assert "Not finished: tiny, thin." in page and "lesions" not in page
    assert sorted(p.name for p in (tmp_path / "work/ladder").iterdir()) == ["ladder.json", "ladder.md", "latency.json"]
    with pytest.raises(SystemExit):
        main([*command, "--only", "thin"])  # all are measured, or the ratios mean nothing


def test_a_rung_with_random_weights_has_a_latency_beside_the_table_and_none_in_it(
    finished: Path, tmp_path: Path
) -> None:
    other = Rung("other", dataclasses.replace(RUNG.student, image=16))
    recipe, ladder = ladder_recipe(finished), Ladder([RUNG, other])
    found = graphs(recipe, ladder, tmp_path)
    costs.measure(found, tmp_path, rounds=3, calls=2, untrained=["thin", "other"])
    table = json.loads((finished / "work/ladder/ladder.json").read_text())
    table |= {"shapes": shapes(recipe, ladder), "unfinished": ["other"]}
    page = costs.write_page(table, tmp_path).read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| thin")]
    assert [row[5] == "" for row in rows] == [True, False]  # what it is worth is not set beside random weights' cost
    assert page.count("| other | 16 |") == 1 and "GMACs" in (tmp_path / costs.PLOT).read_text()


def test_an_untrained_graph_has_a_trained_ones_operators(finished: Path, tmp_path: Path) -> None:
    job = rung_jobs(ladder_recipe(finished), Ladder([RUNG]))[1]
    trained, random = (optimised_graph(onnx.load(str(path))) for path in (graph_of(job), untrained(job, tmp_path)))
    assert random.int8_linears == trained.int8_linears == 8
    assert {**random.ops, "Mul": 0} == {**trained.ops, "Mul": 0}  # Mul: SmoothQuant's, where it was chosen


def test_a_thinner_student_takes_whole_heads_and_the_same_channels_everywhere() -> None:
    torch.manual_seed(0)
    teacher, student = HygromaViT(WIDE), HygromaViT(THIN)
    student_from_teacher(student, teacher, (0, 2))
    channels, heads = torch.arange(32) * 2, torch.cat([torch.arange(16), 32 + torch.arange(16)])  # heads 0 and 2 of 4
    scale = 2**0.5
    theirs, ours = teacher.blocks[2], student.blocks[1]
    rows = torch.cat([heads, 64 + heads, 128 + heads])
    torch.testing.assert_close(ours.attn.qkv.weight, theirs.attn.qkv.weight[rows][:, channels] * scale)
    torch.testing.assert_close(ours.attn.proj.weight, theirs.attn.proj.weight[channels][:, heads] * scale)
    torch.testing.assert_close(ours.mlp.fc2.weight, theirs.mlp.fc2.weight[channels][:, torch.arange(128) * 2] * scale)
    both = torch.cat([channels, 64 + channels])
    torch.testing.assert_close(student.plane_head.weight, teacher.plane_head.weight[:, both])
    three = torch.cat([both, 128 + channels])
    torch.testing.assert_close(student.hygroma_head[0].weight, teacher.hygroma_head[0].weight[:, three])
    torch.testing.assert_close(student.cls_token, teacher.cls_token[..., channels])


def test_a_student_that_cannot_be_taken_from_its_teacher_is_refused() -> None:
    for config in (dataclasses.replace(THIN, width=128, heads=8), dataclasses.replace(THIN, heads=1)):
        with pytest.raises(InputError, match="student.width"):
            student_from_teacher(HygromaViT(config), HygromaViT(WIDE), (0, 1))


def test_a_teacher_at_another_size_keeps_its_weights() -> None:
    teacher = HygromaViT(WIDE)
    assert at_image(teacher, 48) is teacher
    other = at_image(teacher, 64)
    assert other.pos_embed.shape[1] == 1 + 16
    torch.testing.assert_close(other.blocks[1].mlp.fc1.weight, teacher.blocks[1].mlp.fc1.weight)


def test_token_relations_of_unlike_widths_agree_only_where_the_tokens_do() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, 5, 8)
    rotated = torch.cat([tokens, torch.zeros(2, 5, 4)], 2) @ torch.linalg.qr(torch.randn(12, 12)).Q  # the same angles
    assert token_distance(rotated, tokens).item() == pytest.approx(0, abs=1e-4)
    assert token_distance(torch.randn(2, 5, 12), tokens).item() > 0.1


def test_distillation_reaches_every_weight_of_a_thinner_student() -> None:
    from test_training import bank

    teacher, student = at_image(HygromaViT(WIDE), 32), HygromaViT(THIN)
    batch = make_batch(bank(), np.arange(8), 32, 2, np.random.default_rng(0))
    x = normalise(batch.crops)
    distillation_loss(teacher)(student(x, batch.nuchal_map), batch, x).backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_multiply_adds_are_those_that_torch_counts() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = HygromaViT(WIDE).eval()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 48, 48))
    colour = 2 * 9 * 16**2 * 64  # two more channels than the exported graph convolves
    assert macs(WIDE) == counter.get_total_flops() / 2 - colour


GOOD = "data: d\nwork: w\nname: n\nversion: 1.0.0\nteacher: {init: t.pt}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rungs: []\n", "rungs: found []; expected a list with at least one entry"),
        ("fold: 0\n", "rungs: missing"),
        ("rungs: [{student: {}}]\n", "rungs[0].name: missing"),
        (
            "rungs: [{name: a, student: {blockz: [1]}}]\n",
            "rungs[0].student.blockz: unknown key; did you mean 'blocks'?",
        ),
        ("rungs: [{name: ../a, student: {}}]\n", "rungs[0].name: found '../a'"),
        ("rungs: [{name: n, student: {}}]\n", "rungs[0].name: found 'n'; give each rung a name of its own"),
        ("rungs: [{name: a, student: {}}, {name: a, student: {}}]\n", "rungs[0].name: found 'a'"),
        ("rungs: [{name: a, student: {image: 100}}]\n", "rungs[0].student.image: found 100; must be a multiple"),
        ("rungs: [{name: a, student: {width: 512}}]\n", "rungs[0].student.width: found 512; the teacher has 384"),
        ("rungs: [{name: a, student: {width: 192}}]\n", "rungs[0].student.width: found 192; a head must stay as wide"),
        ("rungs: [{name: a, student: {heads: 8}}]\n", "rungs[0].student.heads: found 8; the teacher has 6"),
        ("fold: 7\nrungs: [{name: a, student: {}}]\n", "fold: found 7; the recipe holds out [0, 1, 2, 3]"),
    ],
)
def test_rungs_that_cannot_be_are_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "r.yaml").write_text(GOOD)
    (tmp_path / "l.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_ladder(tmp_path / "l.yaml", load_recipe(tmp_path / "r.yaml"))
    assert f"{tmp_path / 'l.yaml'}: {words}" in str(error.value)


def test_the_shipped_rungs_fit_the_shipped_recipe() -> None:
    recipe = load_recipe(shipped_ladder().parent / "shipped.yaml")
    ladder = load_ladder(shipped_ladder(), recipe)
    configs = {job.name: job.recipe.student_config for job in rung_jobs(recipe, ladder)}
    tiny_vit = configs["vitti12-224"]
    assert (tiny_vit.image, tiny_vit.width, tiny_vit.depth, tiny_vit.heads) == (224, 192, 12, 3)
    assert 2 * macs(configs["vits3-160"]) < macs(configs[recipe.name])
