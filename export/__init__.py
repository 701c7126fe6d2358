"""Workstation toolchain: teacher -> student -> ONNX -> QDQ -> validation -> bundle. Torch lives here and in calibration."""

import edge  # noqa: F401  (before onnxruntime, whose telemetry it turns off)
