"""Workstation toolchain: teacher -> student -> ONNX -> QDQ -> validation -> bundle. Torch lives here and in calibration."""
