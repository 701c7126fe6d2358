"""What the GPU costs: engines against PyTorch, one command, no network. Run it through `benchmarks/gpu.sh`.

Two parts, since a host's TensorRT and its PyTorch may live in different Pythons: `engines` races INT8, FP16 and mixed and
compares them with PyTorch's recorded outputs; `torch` times student, teacher and the paper's size of model in FP32, BF16 and
compiled. Times are CUDA events around captured graphs. The student is the bundle's own; the teacher is the INT8 graph that
`hygroma quantize RECIPE --teacher` wrote, given with `--teacher`: its engines are timed and held against the same graph in ONNX
Runtime. The paper's size is a ViT-B/16 of random weights.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.environment import conditions, fingerprint  # noqa: E402
from edge.bundle import ANYONE, Bundle, load_bundle  # noqa: E402
from edge.bundle.trust import SHIPPED_BUNDLE  # noqa: E402
from edge.errors import EngineError, HygromaError  # noqa: E402

DRY = "dry run: nothing was run on a GPU; no figure here is a measurement"
CALLS, WARM_UP = 500, 50  # timed and untimed calls a form
NOISE = 16  # pictures that a teacher's engines are compared on: enough to show a wrong engine, no measure of its rounding
FORMS = ("fp32", "bf16", "bf16 compiled")
PAPERS = "ViT-B/16"
NOTES = {"student": "the bundle's", "teacher": "of --teacher", PAPERS: "the paper's size, random weights"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("engines", "torch", "train", "report"), required=True)
    parser.add_argument("--bundle", default=str(SHIPPED_BUNDLE))
    parser.add_argument(
        "--crops", type=Path, help="written by `hygroma validate RECIPE --crops`; else the golden images"
    )
    parser.add_argument("--teacher", type=Path, help="an INT8 graph whose engines are built and timed too")
    parser.add_argument("--recipe", type=Path, help="for the part `train`: the full-size recipe")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--no-library-tactics", action="store_true", help="where cuBLAS and cuDNN are stubs")
    parser.add_argument("--dry-run", action="store_true", help="everything but the GPU")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.dry_run:
        print(DRY)
    if args.part == "report":
        return write_report(args.out, args.dry_run)
    before = conditions()
    try:
        bundle = load_bundle(args.bundle, ANYONE)
        found = {"engines": engines, "torch": pytorch, "train": train}[args.part](args, bundle)
        found |= {"environment": fingerprint(bundle, threads=1), "before": before, "after": conditions()}
    except (HygromaError, ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    if "error" in found:
        print(f"{args.part}: {found['error']}", file=sys.stderr)
    (args.out / f"gpu-{args.part}.json").write_text(json.dumps(found, indent=1) + "\n")
    return 1 if "error" in found else 0


def engines(args: argparse.Namespace, bundle: Bundle) -> dict[str, Any]:
    """The race, and each engine against PyTorch's recorded outputs on the crops or the golden images."""
    from edge.engines.tensorrt.build import BuildOptions

    options = BuildOptions("int8", args.batch, library_tactics=not args.no_library_tactics)
    golden = bundle.golden()
    found: dict[str, Any] = {
        "bundle": bundle.label,
        "batch": args.batch,
        "compared_on": f"{len(golden.inputs)} golden images",
    }
    data = None
    if args.crops:
        from export.report.engine_gate import engine_report, load_crops, require_size

        data = load_crops(args.crops)
        require_size(bundle, data)
        found["compared_on"] = f"{len(data.labels)} held-out crops"
    if args.teacher:
        require_graph(args.teacher)  # before minutes of building
    if args.dry_run:
        return found | {"dry": True, "candidates": [], "teacher": []}
    from edge.engines.tensorrt.cache import EngineCache
    from edge.engines.tensorrt.host import this_host
    from edge.engines.tensorrt.race import race
    from edge.engines.tensorrt.runner import TensorRTRunner

    host, cache = this_host(), EngineCache(args.out / "engines")
    result, _ = race(host, cache, bundle, options, progress=lambda *state: print(*state, file=sys.stderr))
    found |= json.loads(json.dumps(asdict(result)))
    if data is not None:
        reports = []
        by_digest = {entry.key.digest: entry for entry in cache.entries()}
        for candidate in result.candidates:
            if candidate.passed and (stored := cache.get(by_digest[candidate.digest].key)) is not None:
                reports.append(
                    engine_report(bundle, TensorRTRunner(stored.plan, candidate.precision, host.api, host.cuda), data)
                )
        found["gates"] = reports
    if args.teacher:
        found["teacher"] = teacher_engines(host, args.teacher.read_bytes(), options)
    return found


def require_graph(path: Path) -> None:
    """EngineError, naming `path`, when it is no graph that TensorRT's forms can be made of."""
    from edge.engines.graph_forms import graph_for

    try:
        graph_for(path.read_bytes(), "fp16", True)
    except HygromaError as error:
        raise EngineError(
            f"{path}: no INT8 graph of this toolchain ({error}); `hygroma quantize RECIPE --teacher` writes one"
        ) from None


def teacher_engines(host: Any, graph: bytes, options: Any) -> list[dict[str, Any]]:
    """INT8 and FP16 engines of another graph: built, timed, and held against the graph in ONNX Runtime, on pictures of noise: the
    largest difference of a probability."""
    from edge.engines.onnxruntime_runner import OnnxRuntimeRunner
    from edge.engines.selftest import infer_all, sigmoid
    from edge.engines.tensorrt.build import build_engine
    from edge.engines.tensorrt.runner import TensorRTRunner

    with OnnxRuntimeRunner(graph) as canonical:
        side = canonical.input_size
        noise = np.random.default_rng(0).integers(0, 256, (NOISE, 1, side, side), np.uint8)
        wanted = infer_all(canonical, noise)
    rows: list[dict[str, Any]] = []
    for precision in ("int8", "fp16"):
        try:
            built = build_engine(host.api, graph, replace(options, precision=precision))
            with TensorRTRunner(built.plan, precision, host.api, host.cuda) as runner:
                found = infer_all(runner, noise)
                runner.device_times(WARM_UP)
                times = runner.device_times(CALLS)
        except EngineError as error:
            rows.append({"precision": precision, "error": str(error)})
            continue
        apart = [np.abs(sigmoid(getattr(found, h)) - sigmoid(getattr(wanted, h))).max() for h in ("plane", "hygroma")]
        ms = {f"p{q}": round(float(np.percentile(times, q)), 4) for q in (50, 99)}
        rows.append(
            {"precision": precision, "layers": str(built.summary or ""), "took_s": round(built.took_s, 1),
             "largest_dp_on_noise": round(float(max(apart)), 5), **ms}
        )  # fmt: skip
    return rows


def pytorch(args: argparse.Namespace, bundle: Bundle) -> dict[str, Any]:
    """Milliseconds of the bundle's student, of the given teacher and of the paper's size of model in each of FORMS."""
    import torch

    from benchmarks.torch_student import torch_model, torch_student
    from export.model.vit import HygromaViT, ViTConfig

    if not (args.dry_run or torch.cuda.is_available()):
        raise RuntimeError(f"torch {torch.__version__} sees no GPU; install a CUDA build, or use --dry-run")
    config = ViTConfig(image=224, patch=16, width=768, depth=12, heads=12, layer_scale=False)
    student = torch_student(bundle)
    models: dict[str, tuple[Any, ViTConfig, int]] = {"student": (student, student.model.config, 1)}  # input's channels
    if args.teacher:
        teacher = torch_model(args.teacher.read_bytes(), args.teacher)
        models["teacher"] = (teacher, teacher.model.config, 1)
    models[PAPERS] = (HygromaViT(config).eval(), config, 3)
    found: dict[str, Any] = {"torch": torch.__version__, "batch": args.batch, "shapes": {}, "ms": {}}
    for name, (model, shape, channels) in models.items():
        found["shapes"][name] = asdict(shape)
        pictures = torch.rand(args.batch, channels, shape.image, shape.image) * (255 if channels == 1 else 1)
        if args.dry_run:
            with torch.inference_mode():
                model(pictures)  # that it runs
            continue
        model, pictures = model.cuda(), pictures.cuda()
        for form in FORMS:
            run = torch.compile(model) if "compiled" in form else model
            with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled="bf16" in form):
                times = graph_times(torch, lambda run=run, pictures=pictures: run(pictures))  # type: ignore[misc]
            found["ms"][f"{name} {form}"] = {f"p{q}": round(float(np.percentile(times, q)), 4) for q in (50, 99)}
    if not args.dry_run:
        found["gpu"] = torch.cuda.get_device_name()
    return found | {"dry": args.dry_run}


def graph_times(torch: Any, work: Callable[[], Any]) -> np.ndarray:
    """Milliseconds [CALLS] of `work` replayed as one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as PyTorch's manual asks before a capture
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    times = np.empty(CALLS)
    for i in range(-WARM_UP, CALLS):
        first, second = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        graph.replay()
        second.record()
        torch.cuda.synchronize()
        if i >= 0:
            times[i] = first.elapsed_time(second)
    return times


def train(args: argparse.Namespace, bundle: Bundle) -> dict[str, Any]:
    """Runs the recipe to its bundle, training on the GPU; goes on where it stopped. A dry run makes its two models and shows them
    a picture."""
    if args.recipe is None:
        return {"error": "needs --recipe RECIPE.yaml"}
    import torch

    if args.dry_run:
        from export.model.vit import HygromaViT
        from export.recipe import load_recipe

        recipe = load_recipe(args.recipe)
        configs = {"teacher": recipe.teacher_config, "student": recipe.student_config}
        for config in configs.values():
            with torch.inference_mode():
                HygromaViT(config).eval()(torch.zeros(1, 3, config.image, config.image))
        return {"dry": True, "recipe": recipe.name, "shapes": {name: asdict(c) for name, c in configs.items()}}
    start = time.monotonic()
    command = [sys.executable, "-m", "edge.cli", "export", "--device", "cuda", str(args.recipe.resolve())]
    subprocess.run(command, cwd=ROOT, check=True)
    took = round(time.monotonic() - start, 1)
    return {"recipe": str(args.recipe), "device": f"cuda: {torch.cuda.get_device_name()}", "took_s": took}


def write_report(out: Path, dry: bool) -> int:
    """The parts that are there -> gpu.json and gpu.md."""
    parts = {p: json.loads((out / f"gpu-{p}.json").read_text()) for p in ("engines", "torch", "train")
             if (out / f"gpu-{p}.json").is_file()}  # fmt: skip
    dry = dry or any(part.get("dry") for part in parts.values())
    report = {"written": time.strftime("%Y-%m-%d"), "host": platform.platform(), "dry": dry, **parts}
    (out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
    lines = ["# GPU", ""] + ([f"**{DRY}**", ""] if dry else [])
    lines += ["| form | batch | p50 ms | p99 ms | note |", "|---|---:|---:|---:|---|"]
    for name, ms in parts.get("torch", {}).get("ms", {}).items():
        note = NOTES[name.split()[0]]
        lines.append(f"| PyTorch {name} | {parts['torch']['batch']} | {ms['p50']:.3f} | {ms['p99']:.3f} | {note} |")
    engine = parts.get("engines", {})
    for c in engine.get("candidates", []):
        times = f"{c['device_p50_ms']:.3f} | {c['device_p99_ms']:.3f}" if c["device_p50_ms"] is not None else "- | -"
        note = f"max dp {c['fp32']['probability']:.4f}; {c['layers']}" if c["passed"] else f"out: {c['reason']}"
        lines.append(f"| TensorRT {c['precision']} | {engine['batch']} | {times} | {note} |")
    for row in engine.get("teacher", []):
        times = (
            f"- | - | {row['error']}"
            if "error" in row
            else f"{row['p50']:.3f} | {row['p99']:.3f} | max dp {row['largest_dp_on_noise']:.4f} from ONNX Runtime on noise; "
            f"{row['layers']}"
        )
        lines.append(f"| TensorRT teacher {row['precision']} | {engine['batch']} | {times} |")
    for gated in engine.get("gates", []):
        step, said = gated["steps"][f"pytorch-fp32 -> {gated['engine']}"], "passed" if gated["passed"] else "FAILED"
        lines += ["", f"{gated['engine']} against PyTorch FP32 on {gated['n']} held-out crops: gate {said}, "
                  f"{step['positives_lost']} of {gated['positives']} positives lost, {step['flips']} flipped, "
                  f"ROC-AUC down by {step['auc_drop']:.5f}, max dp {step['max_dp']:.4f}."]  # fmt: skip
    if "platform" in engine:
        p = engine["platform"]
        lines += ["", f"{p['gpu']}, TensorRT {p['tensorrt']}, CUDA {p['cuda']}; compared on {engine['compared_on']}."]
    if "took_s" in parts.get("train", {}):
        t = parts["train"]
        lines += ["", f"Trained {t['recipe']} on {t['device']} in {t['took_s'] / 60:.0f} minutes."]
        print(lines[-1])
    for name, e in ((name, part["environment"]) for name, part in parts.items() if "environment" in part):
        versions = ", ".join(f"{package} {version}" for package, version in e["versions"].items())
        lines += ["", f"{name}: {e['bundle']['label']}, git {e['git']}; {e['board']}; {e['cpu']['model']}; GPU {e['gpu']}; "
                  f"{versions}."]  # fmt: skip
    lines += ["", *(f"{name}: {part['error']}" for name, part in parts.items() if "error" in part)]
    (out / "gpu.md").write_text("\n".join(lines).rstrip() + "\n")
    print(f"{out / 'gpu.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
