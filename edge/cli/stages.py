"""The stages of a recipe: `train`, `distill`, `quantize`, `validate`, `bundle build`, and `export`, which is all of them."""

from __future__ import annotations

import argparse
from typing import Any

from edge.cli.common import Parser, Progress, tell, toolchain
from edge.cli.engines import add_engine_validation, validate_engine
from edge.errors import ConfigError, GateError


def add_stage(command: Parser, stage: str) -> None:
    """A command that runs a recipe up to `stage`."""
    optional = "?" if stage == "validate" else None  # `validate --engine` needs none
    command.add_recipe(optional)
    command.add_json("print the result as one JSON object")
    command.add_device()
    command.add_ray("folds and refit")
    if stage == "validate":
        add_engine_validation(command)
    if stage == "quantize":
        command.add_flag("--teacher", "the refit's teacher too, with its gate")
    if stage == "bundle":
        command.add_accept_failing("the bundle")
    command.set_defaults(handler=_stage, stage=stage)


def _add(command: Parser, stage: str) -> None:
    command.description = f"{command.description}. Earlier stages run if they must."
    add_stage(command, stage)


def _stage(args: argparse.Namespace) -> int:
    if getattr(args, "engine", False):
        return validate_engine(args)
    if args.recipe is None:
        raise ConfigError("validate: needs RECIPE.yaml, or --engine with --crops FILE.npz")
    with toolchain():
        from export.recipe import load_recipe
        from export.report.validate import read_verdicts
        from export.runs import run_recipe
    progress, accepted = Progress(), getattr(args, "accept_failing_gate", False)
    pipeline = run_recipe(load_recipe(args.recipe), args.stage, accepted, args.device, args.ray, progress)
    if crops := getattr(args, "crops", None):
        pipeline.save_gate_crops(crops)
    path, gate = pipeline.quantize_teacher() if getattr(args, "teacher", False) else (None, None)
    progress.clear()
    code = 0
    result: dict[str, Any] = {
        "stage": args.stage,
        "work": str(pipeline.work),
        "report": str(pipeline.work / "report" / "validation.html"),
    }
    if args.stage == "bundle":
        result["bundle"] = str(pipeline.work / "bundle")
    elif args.stage == "validate":
        passed, result["gate"] = read_verdicts(pipeline.work / "report")
        code = 0 if passed else GateError.exit_code
    else:
        del result["report"]
    if gate is not None:
        code = 0 if gate.passed else GateError.exit_code
        result |= {"teacher": str(path), "teacher's gate": "passed" if gate.passed else "; ".join(gate.reasons)}
    tell(args, result, lambda: _told(result))
    return code


def _told(result: dict[str, Any]) -> str:
    gates = {f"gate, {name}": said for name, said in result.pop("gate", {}).items()}
    return "\n".join(f"{key}: {value}" for key, value in (result | gates).items())


COMMANDS = {
    "train": lambda command: _add(command, "train"),
    "distill": lambda command: _add(command, "distill"),
    "quantize": lambda command: _add(command, "quantize"),
    "validate": lambda command: _add(command, "validate"),
    "export": lambda command: add_stage(command, "bundle"),
}
