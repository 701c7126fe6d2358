"""Inference behind one small contract; see `runner.Runner`."""
