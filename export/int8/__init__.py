"""The student in INT8: smoothed, quantised, with its logit offset, and mended where the gate is missed."""
