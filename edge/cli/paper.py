"""Commands on a user's own labelled images, after the paper: `crossval`, `compare`, `explain`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from edge.cli.common import Parser, Progress, positive, rate, seed, toolchain
from edge.errors import ConfigError

METRICS = ("accuracy", "sensitivity", "specificity", "roc_auc")
FORMS = ("baseline", "teacher", "student", "qdq", "engine")
# What a recipe says itself.
OF_SYSTEM = ("system", "positive", "init", "shape_of", "out", "image", "epochs", "patience", "batch", "threads", "seed", "lr")


def _add_crossval(crossval: Parser) -> None:
    crossval.description = (
        "4-fold cross-validation, grouped by patient, on images with a finding: a recipe's stages, stopped at the folds' "
        "teachers. Everything wrong with the data is said before anything is trained. Goes on where it was cut off; `hygroma "
        "export OUT/recipe.yaml` goes on from there to a bundle. Of a recipe: its teacher and its baseline, on its own data."
    )
    crossval.epilog = "docs/paper-protocol.md has the whole protocol, command by command."
    crossval.add_path(
        "data", "DATA", "folders per class and tables (docs/data.md); or one RECIPE.yaml, which says all below it", nargs="+"
    )
    crossval.add_argument("--positive", default="hygroma", metavar="CLASS", help="the positive folder (default: hygroma)")
    crossval.add_argument("--system", choices=("usf-mae", "vit-random", "densenet169"), help="what is trained")
    crossval.add_argument(
        "--init", metavar="FILE|random", help="usf-mae: its checkpoint; densenet169: torchvision's, or random (default)"
    )
    crossval.add_path("--shape-of", "FILE", "vit-random: this checkpoint's architecture (default: ViT-B/16)")
    crossval.add_path("--out", "DIR", "the recipe's work folder: results, weights and crops of the images")
    crossval.add_device()
    crossval.add_ray("folds")
    crossval.add_numbers((
        ("image", 224, "input side, pixels"),
        ("epochs", 50, "at most"),
        ("patience", 10, "epochs without improvement before a fold stops"),
        ("batch", 32, "images a step"),
        ("threads", 2, "CPU threads a fold"),
    ), positive)  # fmt: skip
    crossval.add_numbers([("seed", 0, "of folds, starts and augmentation")], seed)
    crossval.add_argument("--lr", type=rate, metavar="RATE", help="peak learning rate (default: the system's own)")
    crossval.add_json("print the report as one JSON object")
    crossval.set_defaults(handler=_crossval)


def _add_compare(compare: Parser) -> None:
    compare.description = (
        "Two `hygroma crossval --out` or work folders of the same images and folds. Beside every p: n, the smallest p that "
        "this n allows, and what either system started from."
    )
    compare.add_path("a", "A", "one folder")
    compare.add_path("b", "B", "the other; gains are B's over A")
    compare.add_argument(
        "--unit",
        default="image",
        choices=("image", "patient", "fold", "fold-metric"),
        help="what is paired (default: image)",
    )
    compare.add_argument(
        "--forms",
        nargs=2,
        default=("", ""),
        choices=FORMS,
        metavar=("OF_A", "OF_B"),
        help=f"which of a folder's models: {', '.join(FORMS)} (default: the teacher, or the only one)",
    )
    compare.add_json()
    compare.set_defaults(handler=_compare)


def _add_explain(explain: Parser) -> None:
    explain.description = (
        "Where each fold's model looked in images that it never saw. One forward pass a channel: seconds an image."
    )
    explain.add_path("run", "RUN", "the --out folder of `hygroma crossval`, or the work folder of a finished recipe")
    explain.add_argument(
        "--form", default="", choices=FORMS[:3], help="which of the folder's models (default: the teacher, or the only one)"
    )
    explain.add_path("--out", "DIR", "where the overlays go", required=True)
    explain.add_numbers([("each", 8, "images of either class")], positive)
    explain.add_path(
        "--boxes", "CSV",
        "path,x0,y0,x1,y1 in pixels: nuchal regions drawn by a reader (default: the data set's nt_box); says how much of the "
        "maps lies inside",
    )  # fmt: skip
    explain.add_path("--data", "DATA", "where the data sets lie now, if they were moved", nargs="+", default=[])
    explain.add_json("print one JSON object: overlays, localisation")
    explain.set_defaults(handler=_explain)


def _crossval(args: argparse.Namespace) -> int:
    with toolchain():
        from export.crossval import Settings, cross_validate, recipe_of, require_free
        from export.recipe import load_recipe
        from export.report.paper import starts_in_words, test_in_words
        from export.training.systems import choose_system
    progress = Progress()
    if args.data[0].suffix in (".yaml", ".yml"):
        _require_recipe_alone(args)
        recipe, teacher = load_recipe(args.data[0]), True
    else:
        if args.system is None or args.out is None:
            raise ConfigError("crossval: DATA needs --system and --out; or give a RECIPE.yaml alone")
        system = choose_system(args.system, args.init, args.image, args.shape_of)
        system.require_batch(args.batch)
        settings = Settings(args.epochs, args.patience, args.batch, args.lr, args.seed, args.threads)
        recipe, teacher = recipe_of(args.data, system, args.out, args.positive, settings), system.vit is not None
        require_free(recipe)
    report = cross_validate(recipe, args.device, args.ray, progress, teacher)
    progress.clear()
    if args.json:
        print(json.dumps(report))
        return 0
    whose = "" if report["patients known"] else " (nobody said whose the images are: each counts as a patient of its own)"
    print(f"{report['images']} images, {report['positives']} {report['classes'][1]}, {report['patients']} patients{whose}")
    for form in report["paper"]["forms"]:
        print(f"\n{starts_in_words(form)}\n{_figures_head()}threshold  best epoch")
        best = {f"fold {fold['fold']}": fold["best_epoch"] for fold in report["folds"]} if form["form"] == report["form"] else {}
        for part, threshold in form["thresholds"].items():
            print(f"{part:<8}{_figures_line(form['figures'][part])}{threshold:<11.3f}{best.get(part, '')}".rstrip())
        print(f"{'pooled':<8}{_figures_line(form['figures']['pooled'])}".rstrip())
        if form["by site"]:
            print("by site, each image by its fold's model and threshold, as pooled")
            for site in form["by site"]:
                print(f"{'':<8}{_figures_line(site['figures'])}{_site_name(site)}")
    for test in report["paper"]["tests"]:
        print(f"\n{test_in_words(test)}")
    parts = [form["figures"]["pooled"] for form in report["paper"]["forms"]] + [site["figures"] for site in report["by site"]]
    kinds = sorted({figure["interval"] for part in parts for figure in part.values() if figure})
    print(f"\ntrained in {' and '.join(report['precision']) or 'a precision that was not recorded'}")
    print(f"95 % intervals: {', '.join(kinds)}. Out-of-fold predictions: {Path(recipe.work) / 'report' / 'predictions.csv'}")
    if shared := report["patients in both classes"]:
        print(
            f"{shared} patients have images of both classes and stay in one fold; if the table numbers each class anew, two "
            "patients share a number there: write hygroma-1 and normal-1, and give another --out"
        )
    odd = {signal: n for signal, n in report["signals"].items() if signal != "OK"}
    if odd:
        print(f"the daemon would not assess {sum(odd.values())} of these images ({odd}); they count all the same")
    if teacher:
        print(f"to a bundle: hygroma export {Path(recipe.work) / 'recipe.yaml'} (trains no fold again)")
    return 0


def _require_recipe_alone(args: argparse.Namespace) -> None:
    """ConfigError for what the recipe says itself: in silence it would be left out."""
    usual = Parser()
    _add_crossval(usual)
    said = [f"--{name.replace('_', '-')}" for name in OF_SYSTEM if getattr(args, name) != usual.get_default(name)]
    if more := [*said, *map(str, args.data[1:])]:
        raise ConfigError(f"{args.data[0]}: found {', '.join(more)} beside it; write it into the recipe")


def _figures_head() -> str:
    return f"{'':<8}{'n':>5}  " + "".join(f"{name:<20}" for name in METRICS)


def _figures_line(figures: dict[str, Any]) -> str:
    cells = [f"{f['value']:.3f} ({f['low']:.3f}-{f['high']:.3f})" if f else "-" for f in map(figures.get, METRICS)]
    n = figures["accuracy"]["n"] if figures["accuracy"] else 0
    return f"{n:>5}  " + "".join(f"{cell:<20}" for cell in cells)


def _site_name(site: dict[str, Any]) -> str:
    only = {0: "no positive image, so no area", site["images"]: "positive images only, so no area"}.get(
        site["positives"]
    )
    name = site["site"] or "no site given"
    return f"{name} ({only})" if only else f"{name} ({site['positives']} positive)"


def _compare(args: argparse.Namespace) -> int:
    with toolchain():
        from export.site.compare import compare
        from export.site.crossed import load_crossed
    result = compare(load_crossed(args.a, args.forms[0]), load_crossed(args.b, args.forms[1]), args.unit)
    if args.json:
        print(json.dumps(result))
        return 0
    if any(system["by site"] for system in result["systems"]):
        print(f"{_figures_head()}site")
    for letter, system in zip("AB", result["systems"], strict=True):
        print(f"{letter} {system['system']}, start: {system['start']} ({system['folder']})")
        for site in system["by site"]:
            print(f"{'':<8}{_figures_line(site['figures'])}{_site_name(site)}")
    print(f"{result['images']} images of {result['patients']} patients\n")
    for test in result["tests"]:
        print(
            f"{test['paired']}: p = {test['p']:.3g} (n = {test['n']}, {test['ties']} of them without a difference; smallest p "
            f"possible {test['smallest_p']:.3g}; B better in {test['second_better']}; {test['starts']})"
        )
    print("".join(f"\n{remark}" for remark in result["remarks"]))
    return 0


def _explain(args: argparse.Namespace) -> int:
    with toolchain():
        from export.explain import explain
        from export.report.localise import mass_in_words
    progress = Progress()
    rows, located = explain(
        args.run, args.out, args.each, args.form, args.boxes, args.data, lambda *step: progress("Score-CAM image", *step)
    )
    progress.clear()
    if args.json:
        print(json.dumps({"overlays": rows, "localisation": located}))
        return 0
    for row in rows:
        print(f"{row['label']:<12}{row['probability']:.3f}  called {row['decision']:<12}{row['overlay']}")
    for found in located:
        print(mass_in_words(found))
    return 0


COMMANDS = {"crossval": _add_crossval, "compare": _add_compare, "explain": _add_explain}
