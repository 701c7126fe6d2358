"""Students as a ladder: the recipe's own and others, distilled from the same teacher of one fold, judged on that fold's stills.

Under the recipe's `work`:

    ladder/NAME/                a rung's own work folder; the bank, the teachers and, of the recipe's own rung, the student
                                and its head are links to those in `work`
    ladder/NAME/rung/           foldF.onnx and foldF.json: its INT8 graph, and its row
    ladder/ladder.json          every row there is

A rung goes on where it was cut off, after every epoch. What it costs is measured elsewhere (benchmarks/ladder.py): on an
idle machine, all rungs in turn.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from edge.engines.selftest import sigmoid
from edge.errors import ConfigError
from export.atomic import appearing, remove
from export.int8.convert import Converted, convert
from export.int8.log_odds_shift import quantize_shifted
from export.int8.ort_graph import run_graph
from export.int8.quantize import quantize_best
from export.jobs import load_ray, run_jobs
from export.model.heads import HEADS, HYGROMA, PLANE, Head
from export.model.vit import HygromaViT, ViTConfig
from export.phantoms import Progress
from export.pipeline import Pipeline
from export.recipe import Ladder, Recipe
from export.report import metrics
from export.report.evidence import HeldOut, held_out, increased_rows, shipped_threshold, thickness_rows
from export.report.gate import gate
from export.stages.crops import REFIT, run_name
from export.stages.evidence import probabilities
from export.stages.graphs import float_model
from export.stamps import used
from export.training.train import predict

log = logging.getLogger("hygroma.ladder")

LADDER, STAGE, TABLE = "ladder", "rung", "ladder.json"
SHARED = ("bank", "bank_phantom", "frames", "teacher")  # stages that no student decides
STUDENT = ("unlabelled", "student", "heads")  # those that make one: the recipe's own is not made twice
SMOOTHED = 0.5  # SmoothQuant's strength in an untrained graph: any above 0 adds the products that a trained one has
SPREAD = 0.02  # standard deviation added to every weight of it: ONNX Runtime drops the addition of a bias of zeros
NOISE = 4  # crops that an untrained graph's ranges come from
ZERO = 1e-7  # a probability this near 0 or 1 has no finite log-odds in single precision


@dataclass(frozen=True)
class RungJob:
    """Everything a rung needs, for a process that may be on another machine. base: the ladder's recipe; recipe: the rung's."""

    name: str
    base: Recipe
    recipe: Recipe
    fold: int
    device: str = "cpu"


def climb(
    recipe: Recipe,
    ladder: Ladder,
    only: Sequence[str] = (),
    ray_address: str | None = None,
    progress: Progress = lambda what, done, total: None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train, convert and judge the rungs (those named in `only`; none: all), and return the table of all rungs finished
    until now, also in `ladder.json`. Rungs finished before are left as they are."""
    if ray_address is not None:
        load_ray()
    jobs = rung_jobs(recipe, ladder, device)
    unknown = set(only) - {job.name for job in jobs}
    if unknown:
        raise ConfigError(f"--only: no rung {sorted(unknown)[0]!r}; there are {', '.join(job.name for job in jobs)}")
    base = Pipeline(recipe, progress, device)
    for stage in (*SHARED, *STUDENT, "predictions"):
        base.stamps.check(stage)
    base.predictions(ladder.fold)  # the teacher's; makes teacher and student where they are missing
    del base  # it may hold a bank
    for job in jobs:
        link(job)
    run_jobs(
        partial(run_rung, progress=progress) if ray_address is None else run_rung,
        [job for job in jobs if not only or job.name in only],
        ray_address,
        cpus=recipe.threads,
        gpus=int(device == "cuda"),
        on_done=lambda done, total: progress("rungs", done, total),
    )
    return write_table(recipe, ladder)


def rung_jobs(recipe: Recipe, ladder: Ladder, device: str = "cpu") -> list[RungJob]:
    """The recipe's own student first, under the recipe's name."""
    students = {recipe.name: recipe.student} | {rung.name: rung.student for rung in ladder.rungs}
    return [
        RungJob(
            name,
            recipe,
            replace(recipe, student=student, work=str(Path(recipe.work) / LADDER / name)),
            ladder.fold,
            device,
        )
        for name, student in students.items()
    ]


def link(job: RungJob) -> None:
    """The rung's work folder, with links to what it shares with `work`."""
    work = Path(job.recipe.work)
    work.mkdir(parents=True, exist_ok=True)
    own = is_own(job)
    for stage in STUDENT:
        if (work / stage).is_symlink() and not own:  # it was the recipe's own before
            (work / stage).unlink()
    for stage in (*SHARED, *STUDENT) if own else SHARED:
        if used(job.base, stage) and not (work / stage).exists():
            remove(work / stage)  # a link to nothing
            (work / stage).symlink_to(Path("../..") / stage, target_is_directory=True)


def graph_of(job: RungJob) -> Path:
    return Path(job.recipe.work) / STAGE / f"{run_name(job.fold)}.onnx"


def row_of(job: RungJob) -> Path:
    return graph_of(job).with_suffix(".json")


def run_rung(job: RungJob, progress: Progress = lambda what, done, total: None) -> None:
    """A rung's student, INT8 graph and row, unless they are there."""
    pipeline = Pipeline(job.recipe, lambda what, done, total: progress(f"{job.name}: {what}", done, total), job.device)
    folder = pipeline.stamps.claim(STAGE)
    if row_of(job).is_file():
        return
    pipeline.student(job.fold)
    progress(f"{job.name}: judging", 0, 1)
    row, model = judge(job, pipeline)
    with appearing(graph_of(job)) as partial:
        onnx.save(model, str(partial))
    row["bytes"] = graph_of(job).stat().st_size
    with appearing(row_of(job)) as partial:
        partial.write_text(json.dumps(row, indent=1) + "\n")
    log.info("%s: %s", folder, json.dumps(row["evidence"]))


def judge(job: RungJob, pipeline: Pipeline) -> tuple[dict[str, Any], onnx.ModelProto]:
    """A rung's row and INT8 graph. The conversion's gate is judged on what is held out for good, where there is anything, at the
    threshold that the float student has on its held-out fold: neither trained it."""
    recipe, fold = job.recipe, job.fold
    config, threads, bank = recipe.student_config, recipe.threads, pipeline.bank()
    student = pipeline.student(fold)
    name = f"fold {fold}"
    shared = Pipeline(job.base).predictions(fold)  # of the teacher, at its own input size
    index = shared["index"]
    crops = pipeline.crops.of(index)
    part = {k: v for k, v in shared.items() if k == "index" or k.startswith("teacher_")}
    part |= probabilities("student", predict(student, crops))
    heads = [head for head in pipeline.judged_heads if head.name in (HYGROMA.name, PLANE.name)]
    decides = next(head for head in heads if head.name == HYGROMA.name)
    threshold = shipped_threshold(held_out(name, bank, {name: part}), "student", decides)

    gated = pipeline.crops.labelled(REFIT)
    before = sigmoid(predict(student, gated.crops[:, 0])["hygroma"])
    model, shift_crops = float_model(student, pipeline.crops, fold, threads), pipeline.shift_crops(fold)
    converted = convert(
        quantize_shifted(model, shift_crops),
        model,
        shift_crops,
        lambda graph: gate(
            gated.labels, before, sigmoid(run_graph(graph, gated.crops, threads).hygroma), threshold, gated.ids
        ),
    )
    part |= probabilities("qdq", run_graph(converted.model, crops[:, None], threads).named())
    data = held_out(name, bank, {name: part})
    row = {
        "name": job.name,
        "own": is_own(job),
        "student": asdict(recipe.student),
        **size(config),
        "fold": fold,
        "teacher": evidence(data, "teacher", heads),
        "fp32": evidence(data, "student", heads),
        "evidence": evidence(data, "qdq", heads),
        "agreement": {head.name: agreement(data, head) for head in reversed(heads)},  # of a name the first, which decides
        "conversion": _conversion(converted),
    }
    return row, converted.model


def evidence(data: HeldOut, form: str, heads: Sequence[Head] = HEADS) -> dict[str, dict[str, Any]]:
    """Each kind of evidence: its figure with the 95 % interval, and n. `hygromas` (real ones), `lesions` and `planes`: areas
    under the ROC curve of `heads`;
    `thickness` and `increased`: see report/evidence.py; "..., cleaned": the same with the calipers painted out. A kind that
    the fold has no images for is left out."""
    out: dict[str, dict[str, Any]] = {}
    for head in heads:
        kind = "planes" if head.name == PLANE.name else "hygromas" if head.real_positives else "lesions"
        keep = data.known(head)
        labels = data.labels(head)[keep]
        if 0 < labels.sum() < len(labels):
            area = metrics.auc(labels, data.said(form, head)[keep])
            out[kind] = {**asdict(area), "positives": int(labels.sum())}
    for r in thickness_rows([data], form):
        out[_of("thickness", r["split"])] = {"value": r["rho"], "low": r["low"], "high": r["high"], "n": r["n"]}
    for i in increased_rows([data], form):
        found = {"value": i["auc"], "low": i["low"], "high": i["high"], "n": i["n"], "positives": i["positives"]}
        out[_of("increased", i["split"])] = found
    return out


def _of(kind: str, split: str) -> str:
    return f"{kind}, cleaned" if "painted" in split else kind


def agreement(data: HeldOut, head: Head) -> dict[str, Any]:
    """Of the INT8 student's logits with the teacher's on the images that the head is judged on: Pearson's r, root mean square
    difference."""
    keep = data.known(head)
    found, aim = (_log_odds(data.said(form, head)[keep]) for form in ("qdq", "teacher"))
    return {
        "n": int(keep.sum()),
        "r": float(np.corrcoef(found, aim)[0, 1]),
        "rms": float(np.sqrt(np.mean(np.square(found - aim)))),
    }


def _log_odds(probability: np.ndarray) -> np.ndarray:
    p = np.clip(probability.astype(np.float64), ZERO, 1 - ZERO)
    return np.asarray(np.log(p / (1 - p)))


def _conversion(converted: Converted) -> dict[str, Any]:
    return {
        "choice": converted.choice.described(),
        "corrected": converted.corrected,
        "spared": list(converted.kept_float),
        "gate": asdict(converted.gate),
    }


def macs(c: ViTConfig) -> int:
    """Multiply-adds of one picture through the exported graph (one grey channel), its products alone: patch embedding,
    linears, attention, heads."""
    patches = c.grid**2
    tokens = patches + 1
    block = tokens * 12 * c.width**2 + 2 * tokens**2 * c.width
    seen = 2 * c.width if c.tap else c.width
    heads = patches * c.width + patches * seen + 2 * c.width + (seen + c.width) * 64 + 64
    return patches * c.patch**2 * c.width + c.depth * block + heads


def write_table(recipe: Recipe, ladder: Ladder) -> dict[str, Any]:
    """The rows of every finished rung, the names of the others and the sizes of all, also written to `ladder.json`."""
    jobs = rung_jobs(recipe, ladder)
    table = {
        "recipe": recipe.name,
        "version": recipe.version,
        "fold": ladder.fold,
        "rungs": [json.loads(row_of(job).read_text()) for job in jobs if row_of(job).is_file()],
        "unfinished": unfinished(recipe, ladder),
        "shapes": shapes(recipe, ladder),
    }
    with appearing(Path(recipe.work) / LADDER / TABLE) as partial:
        partial.write_text(json.dumps(table, indent=1) + "\n")
    return table


def shapes(recipe: Recipe, ladder: Ladder) -> list[dict[str, Any]]:
    """Every rung's name and size, finished or not."""
    jobs = rung_jobs(recipe, ladder)
    return [{"name": job.name, "own": is_own(job), **size(job.recipe.student_config)} for job in jobs]


def is_own(job: RungJob) -> bool:
    return job.recipe.student == job.base.student


def size(c: ViTConfig) -> dict[str, Any]:
    """What a student is in numbers."""
    with torch.device("meta"):  # counted, not made
        parameters = sum(p.numel() for p in HygromaViT(c).parameters())
    return {
        "architecture": {k: getattr(c, k) for k in ("image", "width", "depth", "heads", "patch")},
        "parameters": parameters,
        "gmacs": macs(c) / 1e9,
    }


def unfinished(recipe: Recipe, ladder: Ladder) -> list[str]:
    """Names of the rungs without a row."""
    return [job.name for job in rung_jobs(recipe, ladder) if not row_of(job).is_file()]


def graphs(recipe: Recipe, ladder: Ladder, folder: Path) -> dict[str, Path]:
    """The INT8 graph of every rung, by name; of one that is not finished an `untrained` one, written to `folder`."""
    return {
        job.name: graph_of(job) if row_of(job).is_file() else untrained(job, folder)
        for job in rung_jobs(recipe, ladder)
    }


def untrained(job: RungJob, folder: Path) -> Path:
    """An INT8 graph of the rung's shape, of random weights and ranges from noise: its operators are those of a trained one."""
    config = job.recipe.student_config
    torch.manual_seed(0)
    crops = np.random.default_rng(0).integers(0, 256, (NOISE, 1, config.image, config.image), np.uint8)
    state = HygromaViT(config).state_dict()
    state = {name: tensor + SPREAD * torch.randn_like(tensor) for name, tensor in state.items()}
    choice = quantize_best(state, config, crops, crops, alphas=(SMOOTHED,), methods=("minmax",))
    path = folder / f"{job.name}.onnx"
    onnx.save(choice.model, str(path))
    return path
