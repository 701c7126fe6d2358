"""The gate on hand-made arrays, and the report made of it."""

from __future__ import annotations

import dataclasses
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("torch")

import edge  # noqa: E402
from calibration.bank import Bank
from calibration.dataset import Dataset, LabelledImage  # noqa: E402
from edge.bundle.manifest import OperatingPoint  # noqa: E402
from edge.errors import InputError  # noqa: E402
from export.data import Data
from export.model.heads import EVERY_PART, REPORTED, TOGETHER  # noqa: E402
from export.recipe import RECIPES, load_recipe  # noqa: E402
from export.report.checklist import TOPICS, Topic  # noqa: E402
from export.report.curves import confusion, reliability, roc_points  # noqa: E402
from export.report.design import design  # noqa: E402
from export.report.gate import also_failing, gate  # noqa: E402
from export.report.html import SECTIONS, render  # noqa: E402
from export.report.other_anatomy import Judged, unfamiliar  # noqa: E402
from export.report.provenance import provenance  # noqa: E402
from export.report.validate import (  # noqa: E402
    EvaluationSet,
    Step,
    evidence_tables,
    failures,
    read_verdicts,
    validation_report,
    write_report,
)

SHIPPED = RECIPES / "shipped.yaml"
N = 400
LABELS = np.tile([0, 1], N // 2)
CLEAN = np.where(LABELS == 1, 0.9, 0.1) + np.linspace(-0.05, 0.05, N)
NOISE = np.tile(np.random.default_rng(0).normal(0, 0.4, 40), N // 40)  # a patient's own, of 40
IDS = [f"image-{i}" for i in range(N)]


def changed(**values: float) -> np.ndarray:
    """CLEAN with image number n set to a probability: changed(n3=.4)."""
    out = CLEAN.copy()
    for name, value in values.items():
        out[int(name[1:])] = value
    return out


def test_nothing_changed_passes() -> None:
    result = gate(LABELS, CLEAN, CLEAN, 0.5, IDS)
    assert result.passed and result.flips == result.positives_lost == 0 and result.max_dp == 0.0
    assert (result.n, result.positives) == (400, 200)


def test_one_lost_positive_fails_and_is_named() -> None:
    result = gate(LABELS, CLEAN, changed(n3=0.49), 0.5, IDS)
    assert not result.passed and result.positives_lost == 1 and result.flipped == ("image-3",)
    assert "1 positives lost" in result.reasons[0]


def test_a_positive_that_was_missed_before_cannot_be_lost() -> None:
    missed = changed(n3=0.4)
    assert gate(LABELS, missed, changed(n3=0.3), 0.5, IDS).positives_lost == 0


def test_flips_up_to_the_limit_pass_and_one_more_fails() -> None:
    two = gate(LABELS, CLEAN, changed(n0=0.51, n2=0.51), 0.5, IDS)  # 2 of 400: .5 %
    assert two.passed and two.flips == 2
    three = gate(LABELS, CLEAN, changed(n0=0.51, n2=0.51, n4=0.51), 0.5, IDS)  # .75 %
    assert not three.passed and three.flipped == ("image-0", "image-2", "image-4")


def test_an_auc_drop_fails_without_any_flip() -> None:
    result = gate(LABELS, CLEAN, changed(n0=0.99, n2=0.99), 0.0, IDS)
    assert not result.passed and result.flips == 0 and result.auc_drop == pytest.approx(2 / 200)
    assert "ROC-AUC fell" in result.reasons[0]


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_what_is_no_number_is_no_verdict(odd: float) -> None:
    with pytest.raises(InputError, match="1 of 400 converted probabilities are not finite .image-0.; .*build it again"):
        gate(LABELS, CLEAN, changed(n0=odd), 0.5, IDS)  # a negative: it would stay one
    with pytest.raises(InputError, match="1 of 400 reference"):
        gate(LABELS, changed(n0=odd), CLEAN, 0.5, IDS)


def test_intervals_are_drawn_over_patients_where_one_has_several_images() -> None:
    alone = EvaluationSet("own", "real", "t", "d", IDS, LABELS, ["v"] * N, [Step("as it was", CLEAN + NOISE, 0.5)], "as it was")
    ten = dataclasses.replace(alone, groups=[f"patient {i % 40}" for i in range(N)])
    one, many = (validation_report([data])["sets"][0]["steps"]["as it was"]["v"] for data in (alone, ten))
    assert list(one) == list(many)
    for name, figure in many.items():
        assert figure["value"] == pytest.approx(one[name]["value"]) and figure["n"] == one[name]["n"]
        assert figure["interval"] == "bootstrap over patients" != one[name]["interval"]
        assert figure["high"] - figure["low"] > 1.3 * (one[name]["high"] - one[name]["low"])
    report = validation_report([ten])
    report["sets"] = [part | {"curves": {}} for part in report["sets"]]
    evidence = render(report).split("<h2>Evidence")[1].split("<h2>")[0]
    assert evidence.count("bootstrap over patients") == 1 and "Every interval: bootstrap over patients." in evidence
    report["sets"][0]["steps"]["as it was"]["v"]["accuracy"]["interval"] = "Clopper-Pearson"
    assert render(report).split("<h2>Evidence")[1].split("<h2>")[0].count("(bootstrap over patients)") == 3


def test_thresholds_may_differ_per_image() -> None:
    thresholds = np.where(np.arange(N) < 200, 0.5, 0.95)
    assert gate(LABELS, CLEAN, changed(n1=0.6), thresholds, IDS).flips == 0
    assert gate(LABELS, CLEAN, changed(n201=0.96), thresholds, IDS).flips == 1


def test_one_class_shows_nothing() -> None:
    assert not gate(np.ones(N), CLEAN, CLEAN, 0.5, IDS).passed
    with pytest.raises(InputError):
        gate(LABELS[:0], CLEAN[:0], CLEAN[:0], 0.5, [])
    with pytest.raises(InputError):
        gate(LABELS, CLEAN, CLEAN[:-1], 0.5, IDS)


def evaluation(**changes: Any) -> EvaluationSet:
    base = EvaluationSet(
        name="lesions <A & B>",
        kind="simulated_lesion",
        task="thickened",
        description="Made by hand.",
        ids=IDS,
        labels=LABELS,
        splits=[f"fold {i // 100}" for i in range(N)],
        steps=[
            Step("teacher", changed(n1=0.2), 0.5),
            Step("student FP32", CLEAN, 0.5),
            Step("INT8", changed(n0=0.6), 0.5),
        ],
        reference="student FP32",
    )
    return dataclasses.replace(base, **changes)


def test_report_holds_every_step_fold_and_conversion() -> None:
    report = validation_report([evaluation()])
    part = report["sets"][0]
    assert not report["passed"] and list(part["steps"]) == ["teacher", "student FP32", "INT8"]  # one of fold 0's 100 flips
    assert list(part["steps"]["INT8"]) == ["all folds", "fold 0", "fold 1", "fold 2", "fold 3"]
    assert part["steps"]["teacher"]["all folds"]["sensitivity"]["value"] == pytest.approx(199 / 200)
    assert list(part["conversions"]) == ["INT8"]  # the teacher is not a conversion
    losses = part["conversions"]["INT8"]
    assert (losses["fold 0"]["flips_to_positive"], losses["fold 1"]["flips_to_positive"]) == (1, 0)
    assert losses["all folds"]["positives_lost_bound"] == pytest.approx(1 - 0.05 ** (1 / 200))
    assert [v["one_in"] for v in part["predictive_values"]] == [100, 285, 800]


ONE_FLIP_IN_A_FOLD = [Step("student FP32", CLEAN, 0.5), Step("INT8", changed(n100=0.6), 0.5)]


def test_each_part_has_a_verdict_of_its_own_and_a_set_says_which_count() -> None:
    """One flip of 400 is within the gate, of a fold's 100 it is not."""
    part = validation_report([evaluation(steps=ONE_FLIP_IN_A_FOLD)])["sets"][0]
    verdicts = {split: losses["gate"] for split, losses in part["conversions"]["INT8"].items()}
    assert [v["passed"] for v in verdicts.values()] == [True, True, False, True, True]
    assert verdicts["fold 1"]["flipped"] == ("image-100",) and (verdicts["fold 1"]["n"], verdicts["fold 2"]["flips"]) == (100, 0)
    assert verdicts["fold 1"]["auc_drop"] == 0 == verdicts["all folds"]["auc_drop"]
    (said,) = failures(part, flipped=True)
    assert said.startswith("lesions <A & B>, INT8, fold 1: 1 of 100 decisions flipped (1.00%)")
    assert said.endswith(" (flipped: image-100)") and failures(part) == [said.removesuffix(" (flipped: image-100)")]
    for gated, of_set, of_report in ((EVERY_PART, False, False), (TOGETHER, True, True), (REPORTED, False, True)):
        report = validation_report([evaluation(steps=ONE_FLIP_IN_A_FOLD, gated=gated)])
        assert (report["sets"][0]["passed"], report["passed"]) == (of_set, of_report), gated


def test_an_area_that_falls_in_one_fold_fails_that_fold() -> None:
    higher = changed(n100=0.99)  # above all 50 positives of its fold, no decision changed at a threshold of 0
    part = validation_report([evaluation(steps=[Step("student FP32", CLEAN, 0.0), Step("INT8", higher, 0.0)])])["sets"][0]
    drops = {split: losses["gate"]["auc_drop"] for split, losses in part["conversions"]["INT8"].items()}
    assert drops["fold 1"] == pytest.approx(1 / 50) and drops["fold 0"] == 0 and 0 < drops["all folds"] < 1 / 100
    assert "fold 1: ROC-AUC fell by 0.0200" in failures(part)[1]


def test_from_teacher_to_student_there_are_losses_and_no_gate() -> None:
    taught = Step("teacher", changed(n1=0.2, n2=0.7, n4=0.65), np.where(np.arange(N) < 4, 0.5, 0.68))
    report = validation_report([evaluation(steps=[taught, *ONE_FLIP_IN_A_FOLD])])
    losses = report["sets"][0]["earlier"]["teacher"]
    assert list(losses) == ["all folds", "fold 0", "fold 1", "fold 2", "fold 3"] and "gate" not in losses["all folds"]
    assert (losses["fold 0"]["flips_to_positive"], losses["fold 0"]["flips_to_negative"]) == (1, 1)  # each at its own threshold
    assert losses["fold 1"]["kappa"] == 1 and losses["fold 0"]["max_dp"] == pytest.approx(float(CLEAN[1]) - 0.2)
    step = render(report).partition("lesions &lt;A &amp; B&gt;: teacher &rarr; student FP32")[2].partition("</table>")[0]
    assert "not a conversion: not gated" in step and "<td>1 / 1</td>" in step and "passed" not in step and "Gate" not in step


def test_the_flip_table_shows_each_parts_verdict_and_drop() -> None:
    html = render(validation_report([evaluation(steps=ONE_FLIP_IN_A_FOLD)]))
    step = html.partition("student FP32 &rarr; INT8")[2].partition("</table>")[0]
    assert step.count(">passed<") == 4 and step.count("<td>failed<") == 1 and "<th>ROC-AUC down by</th><th>Gate</th>" in step
    assert "fold 1: 1 of 100 decisions flipped (1.00%); at most 0.7% allowed. Flipped: image-100." in step
    one_class = render(validation_report([evaluation(splits=[f"fold {label}" for label in LABELS])]))
    assert "<td>-</td><td>failed</td>" in one_class  # no area, and nothing shown


def test_what_is_only_reported_fails_no_report_and_is_said_to(tmp_path: Path) -> None:
    planes = evaluation(name="planes", kind="real", screening=False, gated=REPORTED, steps=ONE_FLIP_IN_A_FOLD)
    report = validation_report([evaluation(), planes])
    html = render(report)
    assert not report["passed"]  # the other set flips one of a fold's 100 too
    words = "Held to the same limits, but reported only: planes (failed). No bundle is refused for it"
    assert words in html and html.count("No bundle is refused for it: a plane that is lost the next frame brings again.") == 2
    write_report(report, tmp_path)
    passed, said = read_verdicts(tmp_path)
    assert not passed and said["lesions <A & B>"].startswith("lesions <A & B>, INT8, fold 0: 1 of 100")
    assert said["planes"].startswith("planes, INT8, fold 1: ") and said["planes"].endswith(" (reported only)")
    write_report(validation_report([evaluation(gated=TOGETHER), planes]), tmp_path)
    assert read_verdicts(tmp_path)[0] and read_verdicts(tmp_path)[1]["lesions <A & B>"] == "passed"


def test_a_verdict_that_fails_elsewhere_too_is_an_accepted_one() -> None:
    result = gate(LABELS, CLEAN, CLEAN, 0.5, IDS)
    assert also_failing(result, []) is result
    other = also_failing(result, ["fold 0: 1 positives lost"])
    assert (other.passed, other.accepted_failing, other.reasons) == (False, True, ("fold 0: 1 positives lost",))
    assert (other.n, other.flips) == (result.n, result.flips)


def test_a_fold_with_one_class_gives_what_it_can() -> None:
    report = validation_report([evaluation(splits=[f"fold {label}" for label in LABELS])])
    figures = report["sets"][0]["steps"]["INT8"]["fold 0"]
    assert figures["sensitivity"] is None and figures["ROC-AUC"] is None and figures["specificity"]["value"] < 1


def test_a_set_of_one_part_shows_it_once_under_its_own_name() -> None:
    report = validation_report([evaluation(splits=["validation"] * N)])
    part = report["sets"][0]
    assert list(part["steps"]["INT8"]) == ["validation"]
    assert list(part["conversions"]["INT8"]) == list(part["earlier"]["teacher"]) == ["validation"]
    assert part["predictive_values"][0]["ppv"] > 0
    assert {row.split for row in evidence_tables(report)[0].rows} == {"validation"}
    html = render(report)
    assert "all folds" not in html and "fold 4" not in html


def test_a_head_that_says_the_same_of_every_image_is_told_in_words() -> None:
    report = validation_report([evaluation(steps=[Step("student FP32", CLEAN, 0.5), Step("INT8", np.full(N, 0.5), 0.5)])])
    html = render(report)
    assert "0.500 [0.429, 0.571] (all scores alike; exact, smaller class)" in html
    assert "interval 0.429 to 0.571 (all scores alike; exact, smaller class), 400 images" in html


@pytest.mark.parametrize(
    ("lean", "words"),
    [
        ({"refit": 0.39, "fold0": 0.21, "fold1": 0.24, "fold2": 0.0}, "the folds' models, 3 of them, by 0.000 to 0.240."),
        ({"refit": 0.0, "fold0": 0.21}, "shipped, by 0.000; the folds' models, 1 of them, by 0.210."),
        ({"refit": 0.0}, "They lean so: the refit, which is shipped, by 0.000."),
        ({}, "By how much was not recorded"),
    ],
)
def test_the_report_says_how_far_the_graphs_lean(lean: dict[str, float], words: str) -> None:
    assert words in render(validation_report([evaluation()]) | {"lean": lean})


class Tags(HTMLParser):
    """Checks that tags are balanced, and collects headings."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.titles: list[str] = []
        self.links: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        assert tag not in ("script", "link", "iframe")
        assert given.get("src", "data:").startswith("data:") and given.get("href", "#").startswith("#")
        if "href" in given:
            self.links.add(given["href"][1:])
        if "id" in given:
            self.ids.add(given["id"])
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h3":
            self.titles.append(data)


def test_written_report_is_json_and_self_contained_html(tmp_path: Path) -> None:
    real = evaluation(name="planes", kind="real", screening=False, gated=REPORTED)
    as_json, as_html = write_report(validation_report([real, evaluation(gated=TOGETHER)]), tmp_path / "out")
    assert sorted(p.name for p in as_json.parent.iterdir()) == ["validation.html", "validation.json"]
    assert json.loads(as_json.read_text())["passed"] is True
    text = as_html.read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == [] and [t.split()[0] for t in tags.titles][:2] == ["Simulated", "Real"]  # kinds apart
    assert tags.ids == tags.links == set(SECTIONS) - {"paper"}  # the checklist and the contents lead somewhere
    assert "lesions &lt;A &amp; B&gt;" in text and "1 in 285" in text and "http" not in text


def test_curves_by_hand() -> None:
    labels, probability = np.array([1, 0, 1, 0]).astype(bool), np.array([0.9, 0.6, 0.6, 0.1])
    assert roc_points(labels, probability) == [[0, 0], [0, 0.5], [0.5, 1], [1, 1]]  # a tie is one slanted step
    found = reliability(labels, probability)
    assert [(b["n"], b["share"]) for b in found["bins"]] == [(1, 0), (2, 0.5), (1, 1)]
    assert found["expected_calibration_error"] == pytest.approx((0.1 + 2 * 0.1 + 0.1) / 4)
    assert list(confusion(labels, probability >= 0.6).values()) == [2, 0, 1, 1]
    many = roc_points(LABELS.astype(bool), np.linspace(0, 1, N))
    assert len(many) == 200 and many[0] == [0, 0] and many[-1] == [1, 1]


def test_the_area_under_the_drawn_curve_is_the_reported_one() -> None:
    part = validation_report([evaluation()])["sets"][0]
    x, y = np.array(part["curves"]["INT8"]["roc"]).T
    assert ((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() == pytest.approx(
        part["steps"]["INT8"]["all folds"]["ROC-AUC"]["value"], abs=1e-3
    )
    counts = part["curves"]["INT8"]["confusion"]
    assert sum(counts.values()) == N and counts["false_positive"] == 1


def test_every_section_shows_what_it_is_given_and_says_what_is_missing() -> None:
    report = validation_report([evaluation()])
    assert render(report).count("in this run") == 4
    figure = {"value": 0.5, "low": 0.25, "high": 0.75}
    row = {
        "method": "<map>",
        "n": 9,
        "grid": 4,
        "pointing": figure,
        "pointing_chance": 0.07,
        "mass": figure,
        "mass_chance": 0.02,
    }
    agreed = {"n": 9, "same_peak": figure, "max_change": 0.1, "mean_change": 0.01, "median_rho": 1.0}
    check = {"question": "sham against untouched", "features": "texture", "images": 80, "patients": 40, "auc": 0.55, "low": 0.5,
             "high": 0.62, "verdict": "near .5 in point but not shown"}  # fmt: skip
    data = {"name": "D", "use": "u", "images": 3, "licence": "CC", "citation": "c", "changes": "none"}
    planes, others = (Judged([str(i) for i in range(4)], np.ones(4, bool), p * np.ones(4), np.ones(4)) for p in (0.9, 0.2))
    html = render(report | {
        "thickness": [{"split": "folds", "n": 5, "rho": 0.61, "low": 0.5, "high": 0.7}],
        "increased": [{"split": "folds", "n": 5, "positives": 2, "auc": 0.97, "low": 0.9, "high": 0.99}],
        "localisation": {"rows": [row], "agreement": agreed, "panels": [{"caption": "sham <1>", "jpeg": "AAAA"}]},
        "honesty": [check],
        "unfamiliar": unfamiliar(planes, {"<ovaries>": others}, 0.5, 2.0),
        "provenance": {"initialisation": "i", "teacher": "t", "recipe": "r", "seeds": [7], "limits": ["No <patients>."],
                       "data": [data]},
    })  # fmt: skip
    assert "in this run" not in html and "&lt;map&gt;" in html and "&lt;ovaries&gt;" in html and "No &lt;patients&gt;." in html
    for words in (
        "0.610 [0.500",
        "2 thick by eye",
        "data:image/jpeg;base64,AAAA",
        "near .5 in point but not shown",
        "0.550",
        "more of its mass inside the box than chance gives.",
        "sham &lt;1&gt;",
    ):
        assert words in html
    tags = Tags()
    tags.feed(html)
    assert tags.open == []


def test_the_report_says_which_map_is_not_told_from_chance() -> None:
    share = {"value": 0.5, "low": 0.25, "high": 0.75}
    row = {"method": "Nuchal map", "n": 24, "pointing": share, "pointing_chance": 0.1, "mass": share, "mass_chance": 0.02}
    cam = row | {"method": "Score-CAM", "mass": {"value": 0.025, "low": 0.008, "high": 0.046}}
    html = render(validation_report([evaluation()]) | {"localisation": {"rows": [row, cam]}})
    assert (
        "than chance gives, but for these. Score-CAM: the mass inside the box is not told from chance "
        "(0.025 [0.008, 0.046] against 0.020, n 24).</p>"
    ) in html


def test_a_form_keeps_its_colour_in_the_diagram_beside_the_curves() -> None:
    html = render(validation_report([evaluation()]))
    roc, reliability = html.split("<figure>")[1:3]
    key = re.search(r'class="key (s\d)">INT8', roc)
    assert key is not None and f'class="key {key[1]}">INT8' in reliability and f'<g class="{key[1]}">' in reliability
    assert reliability.count('class="key ') == 1


ONE_STILL = Data([Dataset(Path("d"), Path(), ("normal", "hygroma"), [LabelledImage(Path("a"), "a", hygroma=0)], True)])


@pytest.mark.parametrize("topic", [t for t in TOPICS if t.section], ids=lambda t: t.asked)
def test_a_section_says_what_the_checklist_finds_there(topic: Topic) -> None:
    """The words are looked for in a report that has everything, of a conversion that fails its gate."""
    failing = evaluation(steps=[Step("student FP32", CLEAN, 0.5), Step("INT8", changed(n3=0.4), 0.5)])
    share = {"value": 0.5, "low": 0.25, "high": 0.75}
    cam = {"method": "Score-CAM", "n": 9, "pointing": share, "pointing_chance": 0.1, "mass": share, "mass_chance": 0.02}
    recipe = load_recipe(SHIPPED)
    start = dataclasses.replace(recipe.teacher, init=str(SHIPPED))  # any file: what is said of it is not looked for
    recipe = dataclasses.replace(recipe, teacher=start)
    html = render(validation_report([failing]) | {
        "design": design(recipe, OperatingPoint(0.25, 0.125), True, False, True),
        "localisation": {"rows": [cam]},
        "provenance": dataclasses.asdict(provenance(recipe, ONE_STILL, Bank(np.zeros((0, 8, 8), np.uint8), []))),
    })  # fmt: skip
    section = html.partition(f'<section id="{topic.section}">')[2].partition("</section>")[0]
    text = unescape(re.sub("<[^>]*>", " ", section))
    assert topic.words and [w for w in topic.words if w not in text] == []


def test_the_design_is_the_recipes() -> None:
    recipe = load_recipe(SHIPPED)
    found = design(dataclasses.replace(recipe, folds=[1, 3], batch=77), OperatingPoint(0.25, 0.125), True, False, True)
    assert "hygroma head: 0.250, " in found["thresholds"] and "plane head: 0.125, " in found["thresholds"]
    assert "98% of the held-out negatives" in found["thresholds"] and "folds 1, 3." in found["partition"]
    settings = found["settings"]
    assert (settings["batch"], settings["student.lr"]) == (77, recipe.student.lr)
    assert settings["teacher.weight_decay"] == recipe.teacher_schedule(0).weight_decay
    assert settings["teacher.init"] == Path(recipe.teacher.init).name and not {"data", "work"} & set(settings)
    assert f"version {edge.__version__}" in found["code"] and f"{recipe.name} {recipe.version}" in found["code"]
    json.dumps(found, allow_nan=False)


def test_the_checklist_points_to_sections_that_exist() -> None:
    assert {t.section for t in TOPICS} <= {"", *SECTIONS}
    assert all(t.answer.endswith(".") for t in TOPICS)


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_json, _ = write_report(validation_report([evaluation()]), tmp_path)
    before = as_json.read_text()

    def dies(self: Path, text: str, **_: Any) -> int:
        self.write_bytes(text[: len(text) // 2].encode())
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", dies)
    with pytest.raises(KeyboardInterrupt):
        write_report(validation_report([evaluation(name="another")]), tmp_path)
    assert as_json.read_text() == before


def test_evidence_is_of_the_last_step() -> None:
    table = evidence_tables(validation_report([evaluation()]))[0]
    assert table.kind == "simulated_lesion" and "INT8" in table.description
    row = next(r for r in table.rows if r.metric == "specificity" and r.split == "all folds")
    assert (row.value, row.n) == (pytest.approx(199 / 200), 200)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "paper"}, "kind: found 'paper'"),
        ({"reference": "nobody"}, "reference: found 'nobody'"),
        ({"splits": ["fold 0"] * 3}, "splits: found 3 entries; there are 400"),
        ({"labels": np.zeros(N)}, "found one class only"),
    ],
)
def test_a_wrong_evaluation_set_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        validation_report([evaluation(**changes)])
