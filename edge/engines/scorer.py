"""From a crop to Scores: a runner, the bundle's calibration and its embedding statistics."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np

from edge.bundle.bundle import Bundle, load_bundle
from edge.bundle.manifest import NUCHAL_MAP, PLANE, Manifest
from edge.bundle.trust import ANYONE
from edge.engines.onnxruntime_runner import OnnxRuntimeRunner
from edge.engines.runner import Runner
from edge.engines.selftest import SelfTestReport, run_selftest, sigmoid
from edge.errors import EngineError
from edge.records import Scores

log = logging.getLogger(__name__)


class Scorer:
    """Scores crops with a verified bundle. Enter it (`with`): that activates the runner and runs the golden self-test.

    `manifest`, `label` (for events), `sha256` and `signed_by` (see `Trust.signer`), `runner_name`, and after entering
    `selftest` (what the self-test measured) are public.
    """

    def __init__(self, bundle: Bundle, runner: Runner, fallback: str = ""):
        """fallback: why this runner stands in for a better one, kept as `fallback`; the runner's `note` joins it.
        BundleError when the bundle's arrays are not what its manifest says."""
        self.fallback = fallback
        self.manifest: Manifest = bundle.manifest
        self.label = bundle.label
        self.sha256 = bundle.sha256
        self.signed_by = bundle.signed_by
        self.runner_name = runner.name
        self.selftest: SelfTestReport | None = None
        self._runner = runner
        self._ood = bundle.ood()
        self._golden = bundle.golden()

    @classmethod
    def open(cls, path: str | Path, threads: int = 1, spinning: bool = False) -> Scorer:
        """The bundle at `path`, whoever made it, on ONNX Runtime's CPU kernels: for the toolchain, whose bundles are not
        signed yet. See OnnxRuntimeRunner for `threads` and `spinning`."""
        bundle = load_bundle(path, ANYONE)
        return cls(bundle, OnnxRuntimeRunner(bundle.model, threads, spinning))

    def __enter__(self) -> Scorer:
        """EngineError when the engine cannot be activated, takes another input size, or fails the self-test."""
        self._runner.__enter__()
        try:
            wanted = self.manifest.input.size
            if self._runner.input_size != wanted:
                raise EngineError(
                    f"{self.runner_name}: takes {self._runner.input_size} pixels; the manifest's input.size says "
                    f"{wanted}"
                )
            if note := self._runner.note:
                log.warning("%s", note)
                self.fallback = "; ".join(filter(None, (self.fallback, note)))
            self.selftest = run_selftest(self._runner, self._golden, self.manifest.golden, self.manifest.calibration)
        except BaseException:
            self._runner.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._runner.__exit__(*exc)

    def score(self, crop: np.ndarray) -> Scores:
        """uint8 [S,S] -> Scores. EngineError for any other dtype or shape, and for an answer that is not finite."""
        return self.score_batch(crop[None])[0]

    def score_batch(self, crops: np.ndarray) -> list[Scores]:
        """uint8 [N,S,S] -> N Scores; `ms` is the batch's wall time divided by N."""
        start = time.perf_counter()
        raw = self._runner.infer(crops[:, None])
        if not all(np.isfinite(a).all() for a in raw.named().values()):
            raise EngineError(
                f"{self.runner_name}: the engine's answer is not finite; restart, and rebuild the engine if it happens "
                "again"
            )
        calibration = self.manifest.calibration
        plane = sigmoid(raw.plane / calibration.plane_temperature)
        hygroma = sigmoid(raw.hygroma / calibration.hygroma_temperature)
        nuchal_map = sigmoid(raw.nuchal_map).astype(np.float32)
        ood = self._ood.distance(raw.embedding)
        ms = (time.perf_counter() - start) * 1000 / len(crops)
        others = {name: sigmoid(raw.others[name]) for name in self.manifest.heads.others}
        absent = self.manifest.heads.absent
        return [
            Scores(
                None if PLANE in absent else float(p),
                float(h),
                float(o),
                None if NUCHAL_MAP in absent else m,
                ms,
                {name: float(said[i]) for name, said in others.items()},
            )
            for i, (p, h, o, m) in enumerate(zip(plane, hygroma, ood, nuchal_map, strict=True))
        ]
