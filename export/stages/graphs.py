"""quantize: a run's student as the canonical INT8 graph; and the refit's teacher, for hosts that have room for it."""

from __future__ import annotations

import onnx

from edge.screen.preprocess import Preprocessing
from export.atomic import Form
from export.bundle import gate_of
from export.int8.convert import Converted, convert
from export.int8.log_odds_shift import ShiftCrops, quantize_shifted
from export.int8.quantize import FloatModel
from export.model.torch_runner import TorchRunner
from export.model.vit import HygromaViT
from export.stages.crops import REFIT, Crops

GRAPH: Form[onnx.ModelProto] = Form(lambda graph, path: onnx.save(graph, str(path)), lambda path: onnx.load(str(path)))


def float_model(model: HygromaViT, crops: Crops, run: int, threads: int) -> FloatModel:
    """A run's model, and the training crops that its INT8 form is made with."""
    spec = Preprocessing(size=model.config.image)
    return FloatModel(model.state_dict(), model.config, *crops.calibration(run, spec), threads)


def shift_crops_of(model: HygromaViT, crops: Crops, run: int, threads: int) -> ShiftCrops:
    """The crops on which the logit offset of a run's model is measured."""
    spec = Preprocessing(size=model.config.image)
    return ShiftCrops.near(model.state_dict(), model.config, crops.judged(run, spec), threads)


def converted_teacher(teacher: HygromaViT, crops: Crops, threshold: float, threads: int) -> Converted:
    """The refit's teacher, converted as its student is, and judged on the validation split at `threshold`, its own."""
    model, shift_crops = float_model(teacher, crops, REFIT, threads), shift_crops_of(teacher, crops, REFIT, threads)
    choice = quantize_shifted(model, shift_crops)
    spec = Preprocessing(size=teacher.config.image)
    with TorchRunner(model.state, model.config) as reference:
        judge = gate_of(reference, crops.labelled(REFIT, spec=spec), threshold, threads=threads)
        return convert(choice, model, shift_crops, judge)
