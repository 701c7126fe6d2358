"""What the files of this folder would otherwise make anew in every test. Each fixture but the last is asked for by name: a test
whose subject is the very thing that is spared does not ask."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared import made_once

FEW_DRAWS = 30  # bootstrap samples of an interval: the least whose 95 % ends are not the extremes alone
FEW_PHANTOMS = 8  # rendered stills that set a bundle's limit of distance, instead of 128
FEW_GOLDEN = 16  # rendered golden images, each over and over, instead of 64 different ones
FEW_RANGES = ((0.0, 0.65), ("minmax", "mse"))  # smoothings and ranges of an INT8 form, instead of 4 and 6
SHORT_S = 2.5  # seconds of a phantom exam instead of 8: the approach, and a moment on the standard plane


@pytest.fixture(scope="module")
def few_draws() -> Iterator[None]:
    """Intervals over patients from few draws: they are three quarters of a report's time, and no test that asks for this reads
    their ends. tests/export/site/test_compare.py holds the interval itself, with all draws."""
    from calibration.intervals import patient_interval

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patient_interval, "__defaults__", (FEW_DRAWS, 0))  # in place: it was imported by name
        yield


@pytest.fixture(scope="module")
def few_ranges() -> Iterator[None]:
    """INT8 forms are chosen among few. tests/export/int8 holds the choice among all."""
    from export.int8.quantize import quantize_best

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize_best, "__defaults__", (*FEW_RANGES, 1))  # in place: it was imported by name
        yield


@pytest.fixture(scope="module")
def short_exams() -> Iterator[None]:
    """Phantom exams of SHORT_S. tests/calibration holds what whole ones show."""
    from calibration import traces

    whole = traces.sample_exam
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traces, "sample_exam", lambda seed, truth: whole(seed, truth, seconds=SHORT_S))
        yield


@pytest.fixture(scope="module")
def made_before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Crops that depend on nothing but their arguments, and on the data's files, are made once a run: a data set's bank, the
    phantoms to train on, golden images, and the phantoms that set the limit of distance, of which FEW_PHANTOMS do."""
    import export.pipeline
    import export.site.adapt  # noqa: F401  both first: what is imported below a patch would keep it
    from calibration import bank
    from calibration.bank import Bank, load_bank, save_bank
    from export import phantoms

    build_bank, phantom_bank = bank.build_bank, phantoms.phantom_bank
    golden_crops, standard_crops = phantoms.golden_crops, phantoms.standard_crops

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        return made_once(tmp_path_factory, name, make)

    def real(
        stills: Any, groups: Any, folds: np.ndarray, elsewhere: Any, seed: int, on_step: Any, lesions: bool, columns: Any
    ) -> Bank:
        said = hashlib.sha256(f"{seed} {folds.tolist()} {groups} {lesions} {columns} ".encode())
        for image in (*stills, *elsewhere):
            said.update(repr(replace(image, path=Path())).encode() + image.path.read_bytes())
        asked = stills, groups, folds, elsewhere, seed, on_step, lesions, columns
        return load_bank(folder(f"bank-{said.hexdigest()[:16]}", lambda to: save_bank(build_bank(*asked), to)))

    def rendered(total: int, progress: Any) -> Bank:
        return load_bank(folder(f"phantoms-{total}", lambda to: save_bank(phantom_bank(total, progress), to)))

    def crops(name: str, count: int, spec: Any, render: Callable[[int, Any], np.ndarray]) -> np.ndarray:
        made = folder(f"{name}-{count}-{spec.size}-{spec.pad}", lambda to: np.save(to / "crops.npy", render(count, spec)))
        return np.load(made / "crops.npy")

    instead: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
        (build_bank, real),
        (phantom_bank, rendered),
        (golden_crops, lambda count, spec: crops("golden", FEW_GOLDEN, spec, golden_crops)[np.arange(count) % FEW_GOLDEN]),
        (standard_crops, lambda count, spec: crops("standard", min(count, FEW_PHANTOMS), spec, standard_crops)),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for module in [m for name, m in sys.modules.items() if name.split(".")[0] in ("export", "calibration")]:
            for name, value in list(vars(module).items()):  # wherever it was imported by name
                for function, known in instead:
                    if value is function:
                        patch.setattr(module, name, known)
        yield


@pytest.fixture(scope="module")
def graphs_asked_once(asked_once: None) -> Iterator[None]:
    """As `asked_once` for a self-test, for `run_graph`: of golden images that are few, each over and over."""
    from edge.engines import selftest
    from export.int8 import ort_graph

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ort_graph, "infer_all", selftest.infer_all)
        yield


@pytest.fixture(scope="module")
def loaded_once() -> Iterator[None]:
    """A file of weights is unpickled once a process: whoever asks a pipeline for a finished model reads its file again, and of
    models so small the pickle takes the time, not the weights."""
    import torch

    load, known = torch.load, dict[tuple[object, ...], Any]()

    def loaded(path: Any, **options: Any) -> Any:
        path = getattr(path, "name", path) if hasattr(path, "read") else path  # an open file: by its path
        found = Path(path).stat()
        key = (found.st_ino, found.st_mtime_ns, found.st_size, *sorted((name, str(o)) for name, o in options.items()))
        if key not in known:
            known[key] = load(path, **options)
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", loaded)
        yield


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    few_draws: None,
    few_ranges: None,
    graphs_asked_once: None,
    loaded_once: None,
    made_before: None,
    short_exams: None,
) -> Path:
    """A folder with data, a checkpoint to start from and a `work` in which every stage has run. Not to be written to."""

    from test_pipeline import prepared

    from export.pipeline import Pipeline

    def make(base: Path) -> None:
        Pipeline(prepared(base)).run(accept_failing_gate=True)  # untrained weights may lose anything

    return made_once(tmp_path_factory, "pipeline", make)


@pytest.fixture(scope="module", autouse=True)
def one_precision(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What training computes in is chosen once a run, not once a worker: two that time a product could choose differently, and
    one product in bfloat16 takes a processor without units for it seconds."""
    if find_spec("torch") is None:
        yield
        return
    from export.training import precision

    choose = precision._chosen

    @cache
    def chosen(device: str, threads: int) -> precision.Precision:
        def make(folder: Path) -> None:
            (folder / "choice.json").write_text(json.dumps(asdict(choose(device, threads))))

        folder = made_once(tmp_path_factory, f"precision-{device}-{threads}", make)
        return precision.Precision(**json.loads((folder / "choice.json").read_text()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "_chosen", chosen)
        yield
